"""Certificates, keys and what vouches for them: from files to values."""
