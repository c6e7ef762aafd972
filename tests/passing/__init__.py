"""Tests of passing."""
