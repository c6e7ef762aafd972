"""Tests of event_thread: one thread for many connections, its beginning and its end."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.doubles import until
from tests.want import Want
from tlsify.connection import event_thread
from tlsify.connection import exit as interpreter
from tlsify.connection.event_thread import EventThread, Interest
from tlsify.connection.relay import threads as relay_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

THREAD = "tlsify-relay"
Pairs: TypeAlias = "list[tuple[socket.socket, socket.socket]]"


class Echo:
    """A connection that sends back what comes, until that ends or is "raise"."""

    def __init__(self, sock: socket.socket) -> None:
        """Store a socket."""
        self.sock = sock
        self.turns: list[dict[int, int]] = []
        self.threads: set[int] = set()
        self.abandoned: BaseException | None = None
        self.is_closed = self.is_left = self.fails_in_close = False
        self.seconds: float | None = None
        self.events = select.POLLIN

    def interest(self) -> Interest:
        """Read."""
        return Interest({self.sock.fileno(): self.events} if self.events else {}, self.seconds)

    def turn(self, events: dict[int, int]) -> bool:
        """Send back what there is."""
        self.turns.append(events)
        self.threads.add(threading.get_ident())
        try:
            data = self.sock.recv(100, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if data == b"raise":
            raise LookupError("asked for")
        if data:
            self.sock.sendall(data)
        return not data

    def close(self) -> None:
        """Close, and fail in it if asked to."""
        self.is_closed = True
        self.sock.close()
        if self.fails_in_close:
            raise LookupError("asked for")

    def abandon(self, exc: BaseException) -> None:
        """Note why."""
        self.abandoned = exc

    def leave(self) -> None:
        """Note it."""
        self.is_left = True


def end(*sockets: socket.socket) -> None:
    """End connections, and wait until no thread runs any."""
    for sock in sockets:
        sock.close()
    until(lambda: not threads())


def threads() -> int:
    """Return how many there are."""
    return sum(each.name == THREAD for each in threading.enumerate())


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventThread[Echo]]:
    """One of the test's own; no other one's thread lives."""
    until(lambda: not threads())
    monkeypatch.setattr(event_thread, "_IDLE", 0.0)
    yield EventThread(THREAD)
    assert not threads()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Ten connections, seen from both sides."""
    made = [socket.socketpair() for _ in range(10)]
    for ours, _ in made:
        ours.settimeout(60)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


def test_one_thread_for_all(thread: EventThread[Echo], pairs: Pairs) -> None:
    """It begins with the first, serves each in its turn, and ends after the last."""
    relays = [Echo(theirs) for _, theirs in pairs]
    for each in relays:
        thread.add(each)
    assert threads() == 1
    until(lambda: len(thread) == len(relays))
    for number, (ours, _) in enumerate(reversed(pairs)):
        ours.sendall(b"%d" % number)
    for number, (ours, _) in enumerate(reversed(pairs)):
        assert ours.recv(100) == b"%d" % number
    assert len(set().union(*(each.threads for each in relays))) == 1
    end(*(ours for ours, _ in pairs))
    assert not thread.is_running
    assert all(each.is_closed and each.abandoned is None for each in relays)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread.add(Echo(theirs))  # and begins anew
        ours.sendall(b"again")
        assert ours.recv(100) == b"again"
        end(ours)


def test_last_connection_at_the_interpreters_end(
    thread: EventThread[Echo], pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come with the bell, and be over at once: nothing rings again, and the thread ends."""
    poll, is_waiting = thread._poll, threading.Event()

    def wait(seconds: float | None) -> list[tuple[int, int]]:
        is_waiting.set()
        return poll(seconds)

    monkeypatch.setattr(thread, "_poll", wait)
    thread.hold(thread)
    assert is_waiting.wait(60)
    monkeypatch.setattr(interpreter, "is_near", lambda: True)
    monkeypatch.setattr(interpreter, "has_begun", lambda: True)
    ours, theirs = pairs[0]
    ours.close()
    thread.add(Echo(theirs))
    until(lambda: not threads())


def test_one_that_is_held(thread: EventThread[Echo], pairs: Pairs) -> None:
    """It is there before its first connection, and ends once nobody holds it any more."""
    with Want("thread", 1), pytest.raises(RuntimeError):
        thread.hold("first")
    assert not thread.is_running
    for holder in ("first", "second"):
        thread.hold(holder)
    thread.let_go("first")
    ours, theirs = pairs[0]
    with Want("thread", 1) as want:
        thread.add(Echo(theirs))
    assert not want.has_failed
    ours.sendall(b"held")
    assert ours.recv(100) == b"held"
    ours.close()
    until(lambda: not len(thread))
    assert threads() == 1
    thread.let_go("second")
    thread.let_go("second")
    end(ours)


def test_one_that_fails(thread: EventThread[Echo], pairs: Pairs) -> None:
    """It is closed, and told why; the others go on, even if that fails, too."""
    (first, theirs), (second, others) = pairs[:2]
    failing, good = Echo(theirs), Echo(others)
    failing.fails_in_close = True
    thread.add(failing)
    thread.add(good)
    first.sendall(b"raise")
    assert first.recv(100) == b""
    assert isinstance(failing.abandoned, LookupError)
    second.sendall(b"good")
    assert second.recv(100) == b"good"
    end(second)


def test_descriptor_closed_by_somebody(thread: EventThread[Echo], pairs: Pairs) -> None:
    """It is that connection's fault alone, though nothing can be asked for it any more."""
    (_, theirs), (second, others) = pairs[:2]
    broken, good = Echo(theirs), Echo(others)
    broken.seconds = 0.01
    thread.add(good)
    thread.add(broken)
    until(lambda: broken.turns)
    theirs.close()
    until(lambda: broken.is_closed)
    assert isinstance(broken.abandoned, OSError)
    second.sendall(b"good")
    assert second.recv(100) == b"good"
    end(second)


def _watched() -> set[int]:
    """Return the descriptors that this process has epoll watch, by the kernel's own account."""
    text = ""
    for path in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            text += path.read_text()
    return {int(number) for number in re.findall(r"^tfd:\s+(\d+)", text, re.MULTILINE)}


def test_closed_descriptor_that_has_a_copy(thread: EventThread[Echo], pairs: Pairs) -> None:
    """It is watched no longer, though the kernel would report it for ever."""
    (first, theirs), (second, others) = pairs[:2]
    number = theirs.fileno()
    broken, good = Echo(theirs), Echo(others)
    thread.add(good)
    thread.add(broken)
    until(lambda: number in _watched())
    with theirs.dup():  # as a forked child has it
        theirs.close()
        first.sendall(b"data")
        until(lambda: broken.is_closed)
        until(lambda: number not in _watched())
        second.sendall(b"good")
        assert second.recv(100) == b"good"
        end(second)


def test_turns_by_time(thread: EventThread[Echo], pairs: Pairs) -> None:
    """What asks for it has turns although nothing happens; what does not sleeps."""
    (first, theirs), (second, others) = pairs[:2]
    timed, sleeping = Echo(theirs), Echo(others)
    timed.seconds, timed.events = 0.001, 0
    thread.add(timed)
    thread.add(sleeping)
    until(lambda: len(timed.turns) > 5)
    assert set(map(len, timed.turns)) == {0}
    assert len(sleeping.turns) == 1
    end(first, second)


def test_events_add_no_times(thread: EventThread[Echo], pairs: Pairs) -> None:
    """However often a peer causes a turn, its connection has one time to look at."""
    ours, theirs = pairs[0]
    timed = Echo(theirs)
    timed.seconds = 60.0
    thread.add(timed)
    for _ in range(50):
        ours.sendall(b"data")
        assert ours.recv(100) == b"data"
    assert len(thread._times) == 1
    end(ours)


def test_hang_up_of_what_waits_for_nothing(thread: EventThread[Echo], pairs: Pairs) -> None:
    """A side that is left out wakes nobody, again and again."""
    (first, theirs), (second, others) = pairs[:2]
    left_out, good = Echo(theirs), Echo(others)
    left_out.events = 0
    thread.add(left_out)
    thread.add(good)
    until(lambda: left_out.turns and good.turns)
    first.close()
    for _ in range(3):
        second.sendall(b"good")
        assert second.recv(100) == b"good"
    assert len(left_out.turns) == 1
    left_out.seconds = 0.0
    thread._turn(left_out, {})  # its end is found in the next one
    end(second)


@pytest.mark.parametrize("kind", ["epoll", "eventfd", "thread"])
def test_nothing_to_be_had(thread: EventThread[Echo], pairs: Pairs, kind: str) -> None:
    """Nothing is left of the try, and the next one goes well."""
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = pairs[0]
    with Want(kind, 0), pytest.raises((OSError, RuntimeError)):
        thread.add(Echo(theirs))
    assert set(os.listdir("/proc/self/fd")) == before
    assert not thread.is_running
    assert not len(thread)
    thread.add(Echo(theirs))
    ours.sendall(b"good")
    assert ours.recv(100) == b"good"
    end(ours)


def test_bell_that_the_program_has_closed(
    thread: EventThread[Echo], pairs: Pairs, tmp_path: Path
) -> None:
    """Nothing is written into the file that has its number now, nor is that closed."""
    (ours, theirs), (_, others) = pairs[:2]
    path = tmp_path / "file"
    thread.add(Echo(theirs))
    ours.sendall(b"data")
    assert ours.recv(100) == b"data"
    assert thread._bell is not None
    number = thread._bell.number
    with path.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            thread.add(Echo(others))
        assert len(thread) == 1
        end(ours)
        until(lambda: not thread.is_running)
        os.close(number)
    assert path.read_bytes() == b""


def test_bell_that_is_closed_when_it_has_rung(
    thread: EventThread[Echo], pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read from the file that has its number now, and the connections go on."""
    (ours, theirs), _ = pairs[:2]
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    poll = thread._poll
    taken: list[int] = []

    with path.open("rb", buffering=0) as file:

        def close_then(wait: float | None) -> list[tuple[int, int]]:
            found = poll(wait)
            if thread._bell is not None and thread._bell.number in dict(found) and not taken:
                taken.append(thread._bell.number)
                os.dup2(file.fileno(), taken[0])
            return found

        monkeypatch.setattr(thread, "_poll", close_then)
        thread.add(Echo(theirs))
        ours.sendall(b"data")
        assert ours.recv(100) == b"data"
        until(lambda: taken)
        ours.sendall(b"more")
        assert ours.recv(100) == b"more"
        assert file.tell() == 0
        end(ours)
        until(lambda: not thread.is_running)
        os.close(taken[0])


def test_forked_child(
    thread: EventThread[Echo],
    pairs: Pairs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs nothing of its parent's, which goes on; and may run its own."""
    monkeypatch.setattr(relay_threads, "_threads", [thread])
    (ours, theirs), (second, others) = pairs[:2]
    relay = Echo(theirs)
    thread.add(relay)
    ours.sendall(b"before")
    assert ours.recv(100) == b"before"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
        pid = os.fork()
    if not pid:
        status = 1
        try:
            is_left = relay.is_left and not thread.is_running and not len(thread)
            thread.add(Echo(others))
            second.sendall(b"child")
            status = int(not is_left or second.recv(100) != b"child")
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not relay.is_left
    ours.sendall(b"after")
    assert ours.recv(100) == b"after"
    end(ours)
