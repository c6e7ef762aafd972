"""Tests of cheroot: with cheroot and CherryPy, unmodified."""

from tests.integrations.trials import Server, trials

test_what_it_shows, test_what_it_endures = trials(
    Server("cheroot", "cheroot_wsgi", "cheroot", interruptible=False),
    Server("CherryPy", "cherrypy_app", "CherryPy", started="Bus STARTED"),
)
