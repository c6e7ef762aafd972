"""Tests of traffic: both ways are counted apart."""

from __future__ import annotations

from tlsify.connection.traffic import Traffic


def test_ways() -> None:
    """What is counted on one connection is counted on no other."""
    one, other = Traffic(), Traffic()
    one.received += 3
    one.sent += 4
    assert (one.received, one.sent, other) == (3, 4, Traffic(0, 0))
