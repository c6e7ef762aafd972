"""Tests of connection/ending."""
