"""Tests of waitress: as it is."""

from tests.integrations.trials import Server, trials

test_what_it_shows, test_what_it_endures = trials(Server("waitress", "waitress_wsgi", "waitress"))
