"""Connections that the kernel does not take: PROG has one end of a pair, and we carry the data."""
