"""Tests of exit_codes."""

from __future__ import annotations

from tlsify.cli.report.exit_codes import GROUPS, OF_OTHERS, lines, table
from tlsify.errors import ExitCode


def test_every_code_has_its_group() -> None:
    """Each is explained, once."""
    codes = [code for group in GROUPS for code in group.codes]
    assert sorted(codes) == sorted(ExitCode)


def test_forms() -> None:
    """Terminal and page say the same."""
    for group in GROUPS:
        assert group.title in [*lines()]
        assert f"**{group.title}**" in table()
        for code, meaning in group.codes.items():
            assert f"  {code:>3}  {meaning}" in [*lines()]
            assert f"| {code} | {meaning} |\n" in table()
    assert [*lines()][-1] == OF_OTHERS
