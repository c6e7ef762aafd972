"""One file per HTTP server or framework that tlsify brings kernel TLS to."""
