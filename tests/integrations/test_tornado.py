"""Tests of tornado: its HTTP server."""

from tests.integrations.trials import Server, trials

test_what_it_shows, test_what_it_endures = trials(Server("Tornado", "tornado_http", "tornado"))
