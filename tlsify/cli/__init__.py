"""The command `tlsify`: a module for each verb, and what they share."""

from tlsify.cli.command import main

__all__ = ["main"]
