"""A server of several processes: supervisor, workers, successors, and what they serve."""
