"""Backends: their addresses, the choice among them, and connections to them, by TLS or without."""
