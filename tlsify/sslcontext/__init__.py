"""Python's `ssl`, in tlsify's terms."""

from tlsify.sslcontext.context import SSLContext

__all__ = ["SSLContext"]
