"""Tests of terminal."""

from __future__ import annotations

import os
import sys

import pytest

from tlsify.cli.report import terminal

TEXT = "as root, write tls to /etc/modules-load.d/tls.conf"


def test_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal has one, a pipe and nothing at all have none."""
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal.width() is None
    master, slave = os.openpty()
    with open(master, "rb"), open(slave, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert terminal.width() == 77
        monkeypatch.setattr(sys, "stdout", None)
        assert terminal.width() is None


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (None, [TEXT]),
        (80, [TEXT]),
        (40, ["as root, write tls to", "/etc/modules-load.d/tls.conf"]),
        (1, ["as root, write tls to", "/etc/modules-load.d/tls.conf"]),
    ],
)
def test_beside(columns: int | None, lines: list[str]) -> None:
    """Text is wrapped between words only, and stays in its column."""
    assert terminal.beside("yes  ", TEXT, columns) == "yes  " + "\n     ".join(lines)
