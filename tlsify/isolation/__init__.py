"""Handshakes in processes of their own, so that no process with connections has the private key."""
