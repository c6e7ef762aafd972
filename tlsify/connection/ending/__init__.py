"""Ends of connections: what is owed to the peer, to other processes and to the stream."""
