"""Tests of cli.program."""
