"""What `scripts/test` does: the stages, run side by side, and their summary."""
