"""What check and status print."""
