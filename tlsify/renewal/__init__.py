"""Renewal by itself: requests to authorities, a private folder, pauses, and OCSP responses."""
