"""A connection for another process: the descriptor, and what is told of it."""
