"""Tests of admission; what it admits is for test_acceptor and test_plain_acceptor."""

from __future__ import annotations

from tlsify.aio.admission import Limits


def test_parts_of_limits() -> None:
    """The parts of several processes are the whole, and none is nothing."""
    whole = Limits(connections=10, handshakes=2, per_address=5)
    parts = [whole.part(index, 4) for index in range(4)]
    assert [part.connections for part in parts] == [3, 3, 2, 2]
    assert [part.handshakes for part in parts] == [1, 1, 1, 1]
    assert {part.per_address for part in parts} == {5}
    assert Limits().part(0, 2).connections is None
