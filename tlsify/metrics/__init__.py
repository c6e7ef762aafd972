"""Counters, and their exposition."""
