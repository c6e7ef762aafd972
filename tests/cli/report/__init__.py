"""Tests of cli.report."""
