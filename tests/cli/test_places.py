"""Tests of places: decisions, without any process or connection."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tlsify.cli import places
from tlsify.cli.newcomers import Newcomer
from tlsify.cli.places import Place, Places

_NO_SOCKET = cast("Any", None)
# Of several origins, which are bytes: where a flood comes from, and others.
FLOOD, ALICE, BOB = b"flood", b"alice", b"bob"


class Scene:
    """Some places, and a clock."""

    def __init__(self, limit: int) -> None:
        """Begin at time 0, with all places free."""
        self.places = Places(limit)
        self.now = 0.0
        self.waiting: list[Newcomer] = []

    def take(self, origin: bytes, number: int = 1, *, opened: bool = False) -> list[Place]:
        """Make connections from somewhere begin their handshakes, or finish them, too."""
        found = []
        for _ in range(number):
            place = Place(0, origin, "", self.now, 0)
            self.places.enter(place)
            if opened:
                self.places.opened(place, self.now)
            found.append(place)
        return found

    def wait(self, origin: bytes, number: int = 1) -> list[Newcomer]:
        """Make newcomers wait."""
        found = [Newcomer(_NO_SOCKET, origin, str(at), self.now) for at in range(number)]
        self.waiting += found
        return found

    def victims(self) -> list[Place]:
        """Drop the connections that make room."""
        found = self.places.victims(self.waiting, self.now)
        for place in found:
            self.places.give_up(place)
        return found

    def refused(self) -> list[Newcomer]:
        """Send those away who have to go."""
        found = []
        while (newcomer := self.places.refused(self.waiting, self.now)) is not None:
            self.waiting.remove(newcomer)
            found.append(newcomer)
        return found


def test_free_places() -> None:
    """As long as there are some nobody has to go, and newcomers are accepted."""
    scene = Scene(3)
    scene.take(FLOOD, 2)
    scene.now = 100.0
    assert scene.places.free == 1
    assert scene.places.admits(0)
    scene.wait(ALICE)
    assert scene.victims() == []


def test_places_of_programs() -> None:
    """Whoever has finished his handshake keeps his place, and newcomers wait where they are."""
    scene = Scene(2)
    scene.take(FLOOD, 2, opened=True)
    scene.now = 100.0
    assert not scene.places.admits(0)
    scene.wait(ALICE)
    assert scene.victims() == []


def test_handshake_that_takes_too_long() -> None:
    """After two seconds it makes room: the oldest of those from where most come."""
    scene = Scene(4)
    (bob,) = scene.take(BOB)
    flood = scene.take(FLOOD, 3)
    scene.wait(ALICE)
    scene.now = 1.9
    assert scene.victims() == []
    assert scene.places.due(scene.now) == pytest.approx(2.0)
    scene.now = 2.0
    assert scene.victims() == flood[:1]
    assert scene.victims() == [], "one newcomer, one place"
    scene.wait(ALICE)
    assert scene.victims() == flood[1:2]
    assert scene.places.is_opening(bob)
    assert scene.places.free == 0, "places are free when their processes have ended"
    scene.places.leave(flood[0])
    assert scene.places.free == 1
    assert scene.victims() == []


def test_who_gets_a_place() -> None:
    """Whoever comes from where fewest shake hands; of these who came first."""
    scene = Scene(4)
    scene.take(FLOOD, 3)
    scene.take(BOB)
    flood, bob, alice = scene.wait(FLOOD, 2), scene.wait(BOB, 2), scene.wait(ALICE, 2)
    assert scene.places.order(scene.waiting) == [*alice, *bob, *flood]


def test_flood_that_is_renewed() -> None:
    """Its newcomers replace half of it at most: there is always one that makes room for others."""
    scene = Scene(8)
    taken = scene.take(FLOOD, 8)
    scene.now = 2.0
    scene.wait(FLOOD, 10)
    victims = scene.victims()
    assert victims == taken[:4]
    assert scene.victims() == []
    for place in victims:
        scene.places.leave(place)
        scene.take(FLOOD)
        scene.waiting.pop()
    scene.wait(ALICE)
    assert scene.victims() == taken[4:5]


def test_a_single_origin() -> None:
    """Beside silent connections of his own address, too, an honest client gets his turn."""
    for limit in (1, 2, 40):
        scene = Scene(limit)
        scene.take(ALICE, limit)
        scene.wait(ALICE, 2)
        assert scene.victims() == []
        scene.now = 2.0
        assert len(scene.victims()) == min(2, (limit + 1) // 2)


def test_too_many_who_wait() -> None:
    """The newest of a hog's are refused, and others are accepted in their place."""
    scene = Scene(8)
    scene.take(FLOOD, 8)
    flood = scene.wait(FLOOD, 17)
    assert scene.refused() == [], "nothing has stalled yet"
    assert not scene.places.admits(len(scene.waiting))
    scene.now = 2.0
    assert scene.refused() == [flood[-1]]
    assert scene.places.admits(len(scene.waiting))
    alice = scene.wait(ALICE)
    assert scene.refused() == [flood[-2]]
    assert alice[0] in scene.waiting


def test_crowd() -> None:
    """Where there is no hog nobody is refused: the others wait in the listening socket."""
    scene = Scene(8)
    for number in range(8):
        scene.take(bytes([number]))
    scene.now = 2.0
    for number in range(17):
        scene.wait(bytes([100 + number]))
    assert scene.refused() == []
    assert not scene.places.admits(len(scene.waiting))


def test_where_handshakes_take_long() -> None:
    """On a slow host they have more time, up to ten seconds."""
    scene = Scene(10)
    for took in (1.0, 100.0):
        for _ in range(200):
            (place,) = scene.take(ALICE)
            scene.places.opened(place, scene.now + took)
            scene.places.leave(place)
        scene.take(FLOOD, 10 if took == 1.0 else 0)
        scene.wait(BOB)
        due = scene.places.due(scene.now)
        assert due is not None
        assert due - scene.now == pytest.approx(4.0 if took == 1.0 else 10.0, rel=0.01)


def test_handshake_that_ends_meanwhile() -> None:
    """Whatever was decided about it, its place counts once."""
    scene = Scene(2)
    first, second = scene.take(FLOOD, 2)
    scene.now = 2.0
    scene.wait(ALICE)
    assert scene.victims() == [first]
    scene.places.opened(first, scene.now)  # too late
    scene.places.opened(second, scene.now)
    scene.places.opened(second, scene.now)
    for place in (first, second):
        assert scene.places.number_from(FLOOD) > 0
        scene.places.leave(place)
    assert (len(scene.places), scene.places.free) == (0, 2)
    assert scene.places.number_from(FLOOD) == 0
    assert scene.places.due(scene.now) is None
    scene.take(FLOOD, 2)
    scene.now = 4.0
    assert len(scene.victims()) == 1


def test_constants() -> None:
    """What docs/cli/listen.md says of them."""
    assert (places._PATIENCE, places._LONGEST, places._ROOM) == (2.0, 10.0, 16)
