"""The command, as its users run it, against real peers."""
