"""Tests of socketserver: http.server."""

from tests.integrations.trials import Server, trials

test_what_it_shows, test_what_it_endures = trials(
    Server("http.server", "http_server", sendfile=True)
)
