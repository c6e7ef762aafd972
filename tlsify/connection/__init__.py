"""One connection: from a socket to a descriptor in plain text, and to its end."""
