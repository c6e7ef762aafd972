"""Tests of loads."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tlsify.connection.relay import loads
from tlsify.connection.relay.loads import Flow, Load, end

if TYPE_CHECKING:
    from tlsify.tls.room import RecordBuffer


def test_load_that_goes_in_pieces() -> None:
    """What does not fit waits, in order, and its room is left with the last of it."""
    content = os.urandom(2**18)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        load = Load()
        assert not load

        def fill(room: RecordBuffer) -> int:
            room.view[: len(content)] = content
            return len(content)

        load.take_on(fill)
        assert len(load) == len(content)
        received = bytearray()
        while load:
            try:
                load.send(ours)
            except BlockingIOError:
                received += theirs.recv(2**20)
        spare = len(loads.rooms)
        assert spare
        ours.close()
        while more := theirs.recv(2**20):
            received += more
    assert received == content


def test_load_that_is_dropped() -> None:
    """Nothing of it is left."""
    load = Load()
    load.take_on(lambda _: 5)
    load.drop()
    assert not load
    load.take_on(lambda _: 0)
    assert not load


@pytest.mark.parametrize("flow", Flow)
def test_end(flow: Flow) -> None:
    """A flow ends once it is drained, and not before."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        drained = flow is Flow.DRAINING
        assert end(ours, flow) is (Flow.DONE if drained else flow)
        if drained:
            assert theirs.recv(1) == b""
        else:
            with pytest.raises(BlockingIOError):
                theirs.recv(1)
