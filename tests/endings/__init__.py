"""How connections end: every door, whatever the peer does, whatever the program does."""
