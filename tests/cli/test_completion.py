"""Tests of completion; tests/docs/test_completion.py asks the shells."""

from __future__ import annotations

import pytest

from tests.cli.forked import refused
from tests.docs.examples import PROJECT


@pytest.mark.parametrize(
    ("shell", "name"), [("bash", "tlsify.bash"), ("zsh", "_tlsify"), ("fish", "tlsify.fish")]
)
def test_script(shell: str, name: str) -> None:
    """It is the file that the shell would load."""
    made = PROJECT / "tlsify/cli/completions" / name
    assert refused("completion", shell).succeeded() == made.read_bytes()


def test_other_shell() -> None:
    """Those that there are are listed."""
    refused("completion", "tcsh").failed(100, "'tcsh'", "bash", "zsh", "fish")
