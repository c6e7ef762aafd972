"""Tests of cli.options."""
