"""Tests of wsgiref: its server."""

from tests.integrations.trials import Server, trials

test_what_it_shows, test_what_it_endures = trials(
    Server("wsgiref", "wsgiref_server", keeps_alive=False, sendfile=True)
)
