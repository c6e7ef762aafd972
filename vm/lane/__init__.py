"""Runs a command in a guest that has kernel TLS."""
