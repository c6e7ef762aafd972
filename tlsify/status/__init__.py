"""Status of the host and its connections: capabilities, publishing, queries."""
