"""What a server reports while it runs: messages, and a line for each connection or request."""
