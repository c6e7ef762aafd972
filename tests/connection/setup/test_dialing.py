"""Tests of connecting to names with several addresses."""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.connection.setup import dialing
from tlsify.connection.setup.dialing import Address, interleave, truest

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0


def at(port: int, host: str = "127.0.0.1") -> Address:
    """Return an address as ``getaddrinfo`` does."""
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


@contextmanager
def dead() -> Iterator[Address]:
    """Be an address that does not answer: the kernel drops what comes to a full queue."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        stack.enter_context(socket.create_connection(listener.getsockname()))
        yield at(listener.getsockname()[1])


@contextmanager
def alive() -> Iterator[Address]:
    """Be an address that answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield at(listener.getsockname()[1])


@contextmanager
def refusing() -> Iterator[Address]:
    """Be an address that refuses, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield at(bound.getsockname()[1])


@contextmanager
def no_way() -> Iterator[Address]:
    """Be an address to which this host has no way: multicast, by TCP."""
    yield at(9, "224.0.0.1")


KINDS = {"dead": dead, "alive": alive, "refusing": refusing, "no-way": no_way}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Names whose addresses a test decides on."""
    return Names(monkeypatch)


class Names:
    """A resolver that knows some names more than the host's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take its place."""
        self.known: dict[str, list[Address]] = {}
        self.silence = threading.Event()
        self.asked = 0
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._find)

    def _find(self, host: Any, *rest: Any, **wanted: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if wanted.get("flags", 0) & socket.AI_NUMERICHOST:
            return self._real(host, *rest, **wanted)
        self.asked += 1
        if name == "silent.test":
            self.silence.wait(PATIENCE)
        return self.known.get(name) or self._real(host, *rest, **wanted)


@pytest.mark.parametrize(
    "kinds",
    [
        ["alive"],
        ["dead", "alive"],
        ["refusing", "alive"],
        ["dead", "dead", "refusing", "no-way", "alive"],
    ],
)
def test_some_are_dead(named: Names, kinds: list[str]) -> None:
    """They cost a moment, and leave nothing open."""
    with ExitStack() as stack:
        found = [stack.enter_context(KINDS[kind]()) for kind in kinds]
        named.known["several.test"] = found
        before = descriptors()
        with dialing.connect("several.test", 1, PATIENCE) as sock:
            assert sock.getpeername() == found[-1][4]
            assert sock.gettimeout() is None
        check_descriptors(before)


@pytest.mark.parametrize(
    ("kinds", "number"),
    [
        (["refusing"], errno.ECONNREFUSED),
        (["dead", "refusing", "no-way"], errno.ECONNREFUSED),
        (["no-way", "refusing"], errno.ECONNREFUSED),
        (["no-way", "dead"], None),
        (["dead"], None),
        (["no-way"], errno.ENETUNREACH),
    ],
)
def test_all_are_dead(named: Names, kinds: list[str], number: int | None) -> None:
    """One limit holds for all; the error that says most is told, and nothing stays open."""
    with ExitStack() as stack:
        named.known["several.test"] = [stack.enter_context(KINDS[kind]()) for kind in kinds]
        before = descriptors()
        with pytest.raises(OSError, match=r".+") as caught:
            dialing.connect("several.test", 1, 0.6)
        assert caught.value.errno == number
        assert isinstance(caught.value, TimeoutError) is (number is None)
        check_descriptors(before)


def test_resolver_that_hangs(named: Names) -> None:
    """It is not waited for beyond the limit, nor at the end of the process."""
    with pytest.raises(TimeoutError, match="its name server does not answer"):
        dialing.connect("silent.test", 1, 0.05)
    (thread,) = (each for each in threading.enumerate() if each.name == "tlsify-look-up")
    assert thread.daemon
    named.silence.set()
    thread.join(PATIENCE)


def test_name_that_does_not_exist() -> None:
    """The resolver's own error is told."""
    with pytest.raises(socket.gaierror):
        dialing.connect("name.invalid", 1, PATIENCE)


def test_address_asks_nobody(named: Names) -> None:
    """An address is read, and a name is not asked for twice."""
    with alive() as found:
        host, port = found[4]
        with dialing.connect(host, port, PATIENCE) as sock:
            assert sock.getpeername() == (host, port)
    assert named.asked == 0


def test_kernel_that_gives_up() -> None:
    """That it does so by itself is told from our own limit."""

    class Hasty(socket.socket):
        def connect_ex(self, address: Any, /) -> int:
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
            return super().connect_ex(address)

    with dead() as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Hasty)
        host, port = found[4]
        with pytest.raises(TimeoutError) as caught:
            dialing.connect(host, port, PATIENCE)
    assert caught.value.errno == errno.ETIMEDOUT


def test_families_take_turns() -> None:
    """The resolver's order stands, but for a family whose turn it is not."""
    six = [(socket.AF_INET6, 1, 6, "", (f"::{n}", 1, 0, 0)) for n in range(4)]
    four = [at(n) for n in range(2)]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], six[2], six[3]]
    assert interleave([]) == []


def test_no_address() -> None:
    """Nothing to try is an error, too."""
    with pytest.raises(OSError, match="no address"):
        next(dialing.race([], []))


def test_error_that_says_most() -> None:
    """Our want says more than an answer, that more than silence, and silence than no way."""
    numbers = [
        errno.EMFILE,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
        errno.ENETUNREACH,
    ]
    errors = [OSError(number, os.strerror(number)) for number in numbers]
    for at_least in range(len(errors)):
        assert truest(errors[at_least:][::-1]) is errors[at_least]
    assert truest([errors[0], OSError(errno.EMFILE, "later")]) is errors[0]
