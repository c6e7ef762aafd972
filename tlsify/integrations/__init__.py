"""One file per HTTP server or framework that tlsify brings kernel TLS to, and a site of files."""
