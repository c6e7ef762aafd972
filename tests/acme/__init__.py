"""Tests of tlsify.acme."""
