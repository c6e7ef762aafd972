"""Passing a connection to another process: the descriptor, and its metadata."""
