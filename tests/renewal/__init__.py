"""Tests of tlsify.renewal."""
