"""Tests of newcomers: those that say nothing, or little, and the door that waits for them."""

from __future__ import annotations

import os
import resource
import select
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import Forked
from tests.cli.test_door import Hall
from tests.doubles import descriptors, until
from tlsify.cli.newcomers import Newcomer, SilentNewcomers

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.doubles import Lab

_STARTED = b"\x16\x03\x01"


@pytest.fixture
def silent() -> Iterator[SilentNewcomers]:
    """Room for two, for ten seconds each."""
    with select.epoll() as poller:
        made = SilentNewcomers(poller, 2, 10.0)
        yield made
        made.close()


def come(lab: Lab, since: float, origin: bytes = b"x") -> tuple[socket.socket, Newcomer]:
    """Return a client, and its connection, which does not block."""
    client, server = lab.tcp()
    server.settimeout(0)
    return client, Newcomer(server, origin, "", since)


def test_who_is_waited_for(lab: Lab, silent: SilentNewcomers) -> None:
    """Whoever has said what cannot become a ClientHello is not, and others until then."""
    client, newcomer = come(lab, 0.0)
    client.sendall(b"hello")
    until(lambda: select.select([newcomer.sock], [], [], 0)[0])
    assert not silent.wait_for(newcomer)
    client, newcomer = come(lab, 0.0)
    assert silent.wait_for(newcomer)
    number = newcomer.sock.fileno()
    assert number in silent
    assert silent.number_from(b"x") == 1
    assert silent.greeted(number) is None
    client.sendall(b"hello")
    until(lambda: select.select([newcomer.sock], [], [], 0)[0])
    assert silent.greeted(number) is newcomer
    assert number not in silent
    assert silent.number_from(b"x") == 0


def test_who_makes_room(lab: Lab, silent: SilentNewcomers) -> None:
    """The oldest from where most come; the youngest where all have come this moment."""
    _, single = come(lab, 0.0, b"y")
    _, first = come(lab, 1.0)
    _, second = come(lab, 2.0)
    assert silent.wait_for(single)
    assert silent.excess(3.0) is None
    assert silent.wait_for(first)
    until(lambda: silent._pending.stalled(3.0, pressing=True) is not None)
    assert silent.excess(0.0) is first
    assert silent.wait_for(first)
    assert silent.wait_for(second)
    until(lambda: getattr(silent._pending.stalled(3.0, pressing=True), "sock", None) is first.sock)
    assert silent.excess(3.0) is first
    assert len(silent) == 2


def test_who_is_late(lab: Lab, silent: SilentNewcomers) -> None:
    """Each has its time."""
    assert silent.due == float("inf")
    _, first = come(lab, 1.0)
    _, second = come(lab, 2.0)
    assert silent.wait_for(first)
    assert silent.wait_for(second)
    assert silent.due == 11.0
    assert silent.late(10.5) == []
    assert silent.late(11.5) == [first]
    assert silent.due == 12.0


def test_forked_child(lab: Lab, silent: SilentNewcomers) -> None:
    """It closes those, and nothing else."""
    pairs = [come(lab, 0.0) for _ in range(4)]
    for _, newcomer in pairs[:1] + pairs[2:]:
        assert silent.wait_for(newcomer)
    own = {pair[1].sock.fileno() for pair in pairs} - {pairs[1][1].sock.fileno()}

    def work(_: list[str]) -> int:
        silent.drop()
        for number in own:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
        os.fstat(pairs[1][1].sock.fileno())
        return 0

    with Forked(command=work) as child:
        assert child.end() == 0


# -- the door

_ALL_SAID = "logging.root.setLevel(1)"


def test_no_place_is_taken() -> None:
    """Many that say little, or nothing, beside the only place there is."""
    with Hall(1, patience=60.0) as hall:
        for number in range(40):
            hall.dial().sendall(_STARTED[: number % 4])
        for _ in range(2):
            hall.enter().sendall(b"e")
        until(lambda: not hall.children())
        assert hall.end() == ""


def test_more_than_there_is_room_for() -> None:
    """The oldest goes, and the log says so."""
    settings = f"""{_ALL_SAID}
from tlsify.aio import pending
from tlsify.cli import descriptor_limit
pending._LEAST, descriptor_limit._SILENT = 0.0, 16
"""
    with Hall(1, settings, patience=60.0) as hall:
        clients = [hall.dial() for _ in range(17)]
        clients[-1].sendall(_STARTED)
        assert clients[0].recv(1) == b""
        hall.enter()
        assert "connection refused: its handshake has stalled" in hall.end_with_clients()


def test_descriptors_of_the_silent() -> None:
    """Where there is no other descriptor, the oldest give up theirs, and the log says so."""
    with Hall(1, _ALL_SAID, patience=60.0) as hall:
        silent = [hall.dial() for _ in range(8)]
        for each in silent:
            each.sendall(_STARTED[:3])
        until(lambda: len(descriptors(hall.process.pid)) > len(silent) + 4)
        hall.take_turns()
        taken = {int(each.split()[0]) for each in descriptors(hall.process.pid)}
        lowest = next(number for number in range(1024) if number not in taken)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(hall.process.pid, resource.RLIMIT_NOFILE, (lowest, hard))
        hall.enter().sendall(b"e")
        assert silent[0].recv(1) == b""
        silent[-1].settimeout(0)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1)
        assert "connection refused: its handshake has stalled" in hall.end_with_clients()


def test_patience() -> None:
    """It ends with the error line that each failed connection has, and its hint."""
    with Hall(1, patience=0.05) as hall:
        sock = hall.dial()
        sock.sendall(_STARTED)
        assert sock.recv(1) == b""
        line, hint = hall.end_with_clients().splitlines()
        assert "the handshake did not finish within 0.05 seconds" in line
        assert line.startswith("tlsify: error: 127.0.0.1:")
        assert hint.startswith("tlsify: hint: ")


def test_they_count_for_their_address() -> None:
    """As do the others, and the end waits for none of them."""
    with Hall(9, _ALL_SAID, per_address=2, patience=60.0) as hall:
        silent = [hall.dial() for _ in range(2)]
        hall.take_turns()
        assert hall.dial().recv(1) == b""
        hall.enter("127.0.0.2").sendall(b"e")
        assert "limit of connections (2)" in hall.end()
        assert [each.recv(1) for each in silent] == [b"", b""]
