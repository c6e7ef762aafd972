"""Servers under a mixed load for a long time: nothing may grow, and no honest client may fail."""
