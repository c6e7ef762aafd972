"""Output of check and status."""
