"""The protocol: handshake, key schedule, identity, session. No sockets, no clock, no files."""
