"""Certificates, keys, trust anchors and OCSP responses: from files to values."""
