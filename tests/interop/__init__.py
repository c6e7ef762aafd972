"""Other TLS implementations against tlsify, over the kernel and over the relay."""
