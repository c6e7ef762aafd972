"""STARTTLS: a server is asked, in its own protocol, to change to TLS."""
