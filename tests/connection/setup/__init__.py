"""Tests of connection/setup."""
