"""Tests of starttls."""
