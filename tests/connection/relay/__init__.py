"""Tests of connection/relay."""
