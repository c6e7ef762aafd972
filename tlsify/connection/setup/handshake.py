"""Drive an Engine over a connected socket, one record at a time."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from typing import TYPE_CHECKING, TypeAlias

from tlsify.errors import DeadlineExceeded, HandshakeError, PeerMisbehaved, TlsifyError, Truncated
from tlsify.tls.record import Framer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from tlsify.isolation.remote_engine import RemoteEngine
    from tlsify.tls.engine import Engine

# Seconds that a refused peer has to read its alert, and bytes that it may still send.
PARTING_TIME = 1.0
PARTING_BYTES = 2**18


# Before our ServerHello a client cannot have finished, so a large first read takes no data.
FIRST_FLIGHT = 2**12
# The record that ends a handshake is protected: header, one byte, tag. A shorter one, such as
# ChangeCipherSpec or an alert, has a successor, or is the end of the connection.
SHORTEST_LAST = 22
# Each timeout set is a system call, so one that is longer by this share is left as it is.
_LENIENCE = 0.01

# Requests of `conversation` to its driver.
Conversation: TypeAlias = "Generator[bytes | int | socket.socket | float, bytes | None, None]"


def conversation(
    engine: Engine | RemoteEngine, stranger: Callable[[bytes], bytes] | None = None
) -> Conversation:
    """Run a handshake without doing any I/O, for any kind of driver.

    Args:
        engine: fresh.
        stranger: answers a peer whose first bytes are no TLS, from what it has sent so far, in its
            own protocol; empty leaves it to the alert.

    Yields:
        Bytes to send to the peer, or the largest number of bytes to receive; the driver sends
        received bytes back in, empty at the end of the stream, and throws an OSError in. If
        another process does the handshake, also a socket to wait for until it is readable, or
        seconds to wait. Returns when the handshake is finished and all its bytes were yielded.

    Raises:
        HandshakeError: it failed; the alert for it was yielded before.
    """
    attend: Callable[[], Iterable[socket.socket | float]]
    attend = engine.attend if engine.is_remote else tuple
    framer = Framer(SHORTEST_LAST if engine.is_client else FIRST_FLIGHT)
    while True:
        if output := engine.output():
            framer.ahead = SHORTEST_LAST
            yield output
        if engine.result() is not None:
            break
        try:
            record = framer.feed(b"")
            while record is None:
                received = yield framer.need()
                if not received:
                    raise Truncated(
                        "the peer closed the connection during the handshake",
                        hint="check that the peer speaks TLS on this port",
                    )
                record = framer.feed(received)
        except PeerMisbehaved as error:
            answer = stranger(framer.pending) if stranger is not None else b""
            if not answer:
                engine.refuse(error, framer.pending)
                yield from attend()
            yield from _last_words(answer or engine.output())
            raise
        stranger = None  # it has begun to speak TLS
        try:
            engine.feed(record)
            yield from attend()
        except HandshakeError:
            yield from _last_words(engine.output())
            raise
    if framer.pending:
        raise TlsifyError("bytes behind the handshake were read")


def _last_words(output: bytes) -> Conversation:
    """Send the last output; a peer that has gone may not receive it."""
    if output:
        with contextlib.suppress(OSError):
            yield output


def too_slow(seconds: float, engine: Engine | RemoteEngine) -> DeadlineExceeded:
    """Build the error for a handshake that is not finished in time."""
    if engine.is_remote and engine.is_asking:
        return DeadlineExceeded(
            f"the key holder did not answer within {seconds:.3g} seconds",
            hint="give the server more processors, or see what its log says of key holders",
        )
    return DeadlineExceeded(
        f"the handshake did not finish within {seconds:.3g} seconds",
        hint="the peer may be down, or may not speak TLS on this port",
    )


def run(sock: socket.socket, engine: Engine | RemoteEngine, timeout: float) -> None:
    """Do a whole handshake over a blocking socket; afterwards ``engine.result()`` is set.

    Args:
        sock: connected; its timeout and TCP_NODELAY are left as they were.
        engine: fresh.
        timeout: seconds for everything.

    Raises:
        HandshakeError: the handshake failed; the peer has been sent its alert.
        DeadlineExceeded: the handshake took too long.
        OSError: the connection broke.
    """
    deadline = time.monotonic() + timeout
    blocking = sock.gettimeout()
    with undelayed(sock):
        try:
            _drive(sock, engine, deadline)
        except HandshakeError:
            part(sock)
            raise
        except TimeoutError as exc:
            if exc.errno is not None:  # TCP has given the peer up, whatever time we give it
                raise
            raise too_slow(timeout, engine) from exc
        finally:
            with contextlib.suppress(OSError):
                sock.settimeout(blocking)


def _drive(sock: socket.socket, engine: Engine | RemoteEngine, deadline: float) -> None:
    steps = conversation(engine)
    step = next(steps, None)
    granted = math.inf
    while step is not None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if granted - remaining > _LENIENCE * remaining:
            sock.settimeout(remaining)
            granted = remaining
        received = None
        try:
            if isinstance(step, int):
                received = sock.recv(step)
            elif isinstance(step, bytes):
                sock.sendall(step)
            else:
                _wait(step, remaining)
        except OSError as exc:
            step = steps.throw(exc)
            continue
        try:
            step = steps.send(received)
        except StopIteration:
            return


def _wait(what: socket.socket | float, remaining: float) -> None:
    if isinstance(what, float):
        time.sleep(min(what, remaining))
    else:
        poller = select.poll()
        poller.register(what, select.POLLIN)
        poller.poll(remaining * 1000)


@contextlib.contextmanager
def undelayed(sock: socket.socket) -> Generator[None, None, None]:
    """Send each flight at once: Nagle's algorithm would hold back its last segment."""
    try:
        before = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    except OSError:  # gone, or not TCP
        before = 1
    _set_nodelay(sock, 1)
    try:
        yield
    finally:
        _set_nodelay(sock, before)


def _set_nodelay(sock: socket.socket, value: int) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, value)


def part(sock: socket.socket) -> None:
    """Drain a refused peer so that it gets its alert: closing with unread bytes would reset."""
    deadline = time.monotonic() + PARTING_TIME
    budget = PARTING_BYTES
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while budget > 0 and (remaining := deadline - time.monotonic()) > 0:
            sock.settimeout(remaining)
            received = sock.recv(budget)
            if not received:
                return
            budget -= len(received)
