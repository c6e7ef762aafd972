"""HTTP/1.1 without files: requests read, answers written, connections kept."""
