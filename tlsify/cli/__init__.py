"""The command `tlsify`: a module for each verb, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.system import early_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (`errors.ExitCode`).

    Args:
        arguments: its words; those of the process if None.
    """
    before = early_signals.hold()
    try:
        from tlsify.cli import command  # imported late: signals are held before it takes its time

        return command.run(arguments, before)
    finally:
        early_signals.drop(before)
