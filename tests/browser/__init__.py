"""A real browser against `tlsify serve`, over the kernel and over the relay."""
