"""Tests of limits."""

from __future__ import annotations

import resource

import pytest

from tlsify.aio.limits import MOST_HANDSHAKES, Limits, Origins


def test_parts() -> None:
    """The parts of several processes are the whole, and none is nothing."""
    whole = Limits(connections=10, handshakes=2, per_address=5)
    parts = [whole.part(index, 4) for index in range(4)]
    assert [part.connections for part in parts] == [3, 3, 2, 2]
    assert [part.handshakes for part in parts] == [1, 1, 1, 1]
    assert {part.per_address for part in parts} == {5}
    assert Limits().part(0, 2).connections is None


@pytest.mark.parametrize(
    ("soft", "most"), [(256, 128), (2**20, MOST_HANDSHAKES), (resource.RLIM_INFINITY, 4096)]
)
def test_handshakes(soft: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave descriptors for others."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert Limits().handshakes == most


def test_origins() -> None:
    """Each has its number, and a proxy and local sockets any."""
    origins = Origins(1)
    assert origins.enter(b"a")
    assert not origins.enter(b"a")
    assert origins.enter(b"b")
    assert origins.enter(b"a", is_proxy=True)
    origins.leave(b"a")
    assert not origins.enter(b"a")
    origins.leave(b"a")
    assert origins.enter(b"a")
    assert [origins.enter(None) for _ in range(3)] == [True] * 3
    origins.leave(None)
    assert [Origins(None).enter(b"a") for _ in range(3)] == [True] * 3
