"""Tests of twisted: its web server, unmodified."""

from tests.integrations.trials import Server, trials

test_what_it_shows, test_what_it_endures = trials(Server("Twisted", "twisted_web", "Twisted"))
