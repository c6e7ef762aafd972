"""Tests of cli.migration."""
