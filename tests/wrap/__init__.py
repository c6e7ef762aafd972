"""Tests of tlsify.wrap."""
