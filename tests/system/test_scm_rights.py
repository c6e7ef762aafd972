"""Tests of scm_rights."""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import check_descriptors, descriptors
from tests.want import no_descriptors
from tlsify.errors import AgentError
from tlsify.system import scm_rights
from tlsify.system.scm_rights import DescriptorLost

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]


class Overtaken(socket.socket):
    """A socket that another process reads, too: the first time it is quicker by one message."""

    is_overtaken = False

    def recvmsg_into(self, *arguments: Any) -> Any:
        """Receive what is left."""
        if not self.is_overtaken:
            self.is_overtaken = True
            self.recv(1)
        return super().recvmsg_into(*arguments)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a channel; nothing else is left open."""
    before = descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(60)
        theirs.settimeout(60)
        yield ours, theirs
    check_descriptors(before)


def test_message_alone(pair: Pair) -> None:
    """A message without descriptor is just that."""
    scm_rights.send(pair[0], b"message")
    assert scm_rights.receive(pair[1], 100) == (bytearray(b"message"), None)


def test_descriptor(pair: Pair) -> None:
    """What comes is the same file, and no program inherits it."""
    with open("/proc/self/status", "rb") as file:
        scm_rights.send(pair[0], b"m", file.fileno())
        message, number = scm_rights.receive(pair[1], 100)
        assert message == b"m"
        assert number is not None
        assert os.path.sameopenfile(file.fileno(), number)
        assert not os.get_inheritable(number)
        os.close(number)


@given(st.binary(min_size=1, max_size=300))
def test_any_message(message: bytes) -> None:
    """Whatever fits comes whole; of the rest nothing does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        scm_rights.send(ours, message, 0)
        if len(message) > 200:
            with pytest.raises(AgentError, match="too many bytes"):
                scm_rights.receive(theirs, 200)
        else:
            received, number = scm_rights.receive(theirs, 200)
            assert received == message
            os.close(number or -1)


def test_several_readers() -> None:
    """A longer message than the one that another reader takes comes whole; a room has its bound."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, Overtaken(fileno=theirs.detach()) as shared:
        for message in (b"short", b"message", b"m" * 9):
            scm_rights.send(ours, message)
        room = bytearray(8)
        assert scm_rights.receive_into(shared, room) == (7, None)
        assert room[:7] == b"message"
        with pytest.raises(AgentError, match="too many bytes"):
            scm_rights.receive_into(shared, room)
        ours.close()
        assert scm_rights.receive_into(shared, room) == (0, None)


def test_end(pair: Pair) -> None:
    """After the last message comes an empty one."""
    scm_rights.send(pair[0], b"last")
    pair[0].close()
    assert scm_rights.receive(pair[1], 100) == (bytearray(b"last"), None)
    assert scm_rights.receive(pair[1], 100) == (bytearray(b""), None)


def test_nobody_there(pair: Pair) -> None:
    """Sending to nobody is an error, and no signal."""
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        scm_rights.send(pair[0], b"message", 0)


def test_nothing_comes(pair: Pair) -> None:
    """The socket's timeout holds."""
    pair[1].settimeout(0.01)
    with pytest.raises(TimeoutError):
        scm_rights.receive(pair[1], 100)


@pytest.mark.parametrize("count", [2, 3, 10, 253])
def test_too_many(pair: Pair, count: int) -> None:
    """More than one descriptor are refused, and all are closed."""
    rights = array.array("i", [0] * count)
    pair[0].sendmsg([b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    before = descriptors()
    with pytest.raises(AgentError, match="too many descriptors"):
        scm_rights.receive(pair[1], 100)
    check_descriptors(before)
    scm_rights.send(pair[0], b"next")
    assert scm_rights.receive(pair[1], 100) == (bytearray(b"next"), None)


def test_no_room_for_it(pair: Pair) -> None:
    """Where this process has no descriptor left, that is what is said, and the next one comes."""
    scm_rights.send(pair[0], b"m", pair[0].fileno())
    with no_descriptors(), pytest.raises(DescriptorLost, match="can open no more") as caught:
        scm_rights.receive(pair[1], 100)
    assert "ulimit" in str(caught.value.hint)
    scm_rights.send(pair[0], b"m", pair[0].fileno())
    _, number = scm_rights.receive(pair[1], 100)
    assert number is not None
    os.close(number)


def test_no_socket(pair: Pair) -> None:
    """A descriptor that is no socket is refused, and closed."""
    with open(os.devnull, "rb") as file:
        scm_rights.send(pair[0], b"m", file.fileno())
    _, number = scm_rights.receive(pair[1], 100)
    assert number is not None
    with pytest.raises(AgentError, match="no socket"):
        scm_rights.as_socket(number)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(number)


def test_socket(pair: Pair) -> None:
    """One that is a socket becomes one."""
    scm_rights.send(pair[0], b"m", pair[0].fileno())
    _, number = scm_rights.receive(pair[1], 100)
    assert number is not None
    with scm_rights.as_socket(number) as sock:
        assert sock.family == socket.AF_UNIX
        assert sock.type == socket.SOCK_SEQPACKET


def test_whose_end(pair: Pair) -> None:
    """The kernel tells who made the other end."""
    assert scm_rights.peer_uid(pair[0]) == os.geteuid()
