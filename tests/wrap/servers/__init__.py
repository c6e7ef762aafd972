"""Servers of others under wrap: how each is started, and what its clients do to it."""
