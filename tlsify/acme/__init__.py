"""Certificates from an authority by ACME (RFC 8555): challenges, orders, and when to renew."""
