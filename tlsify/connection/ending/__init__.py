"""Ends of connections: for the peer, for forked processes, and after the program has left."""
