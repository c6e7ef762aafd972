"""A program, or stdin and stdout, on a connection."""
