"""Tests of scripts/bench: that it runs, and that its arithmetic is right. No times."""
