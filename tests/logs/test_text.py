"""Tests of text: addresses, moments, and what must not reach a terminal."""

from __future__ import annotations

import pytest

from tlsify.logs.text import moment, printable, spell_address, split_address


@pytest.mark.parametrize(
    ("name", "parts", "spelled"),
    [
        (("192.0.2.1", 80), ("192.0.2.1", 80), "192.0.2.1:80"),
        (("2001:db8::1", 80, 0, 0), ("2001:db8::1", 80), "[2001:db8::1]:80"),
        (("::ffff:192.0.2.1", 80, 0, 0), ("192.0.2.1", 80), "192.0.2.1:80"),
        (("fe80::1%eth0", 80, 0, 2), ("fe80::1%eth0", 80), "[fe80::1%eth0]:80"),
        ("", (None, None), "unix"),
        (b"\0name", (None, None), "unix"),
        (None, (None, None), "unix"),
    ],
)
def test_address(name: object, parts: tuple[str | None, int | None], spelled: str) -> None:
    """An IPv4 client is the same one, whichever socket has accepted it."""
    assert split_address(name) == parts
    assert spell_address(name) == spelled


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Größe", "Größe"),
        ("a\nb\r\t\0", "a\\nb\\r\\t\\x00"),
        ("\x1b[31m\x9b1m", "\\x1b[31m\\x9b1m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2028line", "\\u2028line"),
        ("\udcff", "\\udcff"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """What would do something is shown instead."""
    assert printable(text) == shown
    shown.encode()


def test_moment() -> None:
    """It is UTC, to the millisecond, and never rounded into another second."""
    assert moment(0.0) == "1970-01-01T00:00:00.000Z"
    assert moment(1_764_478_800.9999) == "2025-11-30T05:00:00.999Z"
    assert len(moment()) == len("2025-11-30T05:00:00.999Z")
