"""Peers that do odd things, each on every carrier: what they get and what the program is told."""
