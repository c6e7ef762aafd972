"""Tests of ports."""

from __future__ import annotations

from tlsify.wrap.ports import Ports


def test_ports() -> None:
    """Those that are named, or all but those that are not to have TLS."""
    chosen = Ports(frozenset({443, 444}), frozenset({444}))
    assert [chosen.have(port) for port in (443, 444, 80)] == [True, False, False]
    assert [chosen.refusal(port) for port in (443, 444, 80)] == [
        None,
        "--plain-port names it",
        "--port does not name it",
    ]
    assert [Ports(plain=frozenset({80})).have(port) for port in (443, 80)] == [True, False]
