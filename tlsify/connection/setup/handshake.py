"""Drive an Engine over a connected, blocking socket, within a time limit."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from typing import TYPE_CHECKING

from tlsify.errors import DeadlineExceeded, HandshakeError

if TYPE_CHECKING:
    from tlsify.isolation.remote_engine import RemoteEngine
    from tlsify.tls.engine import Engine

# Seconds that a refused peer has to read its alert, and bytes that it may still send.
PARTING_TIME = 1.0
PARTING_BYTES = 2**18


# Each timeout set is a system call, so one that is longer by this share is left as it is.
_LENIENCE = 0.01


def too_slow(seconds: float, engine: Engine | RemoteEngine | None) -> DeadlineExceeded:
    """Build the error for a handshake that is not finished in time, or has not even begun."""
    if engine is not None and engine.is_remote and engine.is_asking:
        return DeadlineExceeded(
            f"the key holder did not answer within {seconds:.3g} seconds",
            hint="give the server more processors, or see what its log says of key holders",
        )
    found = DeadlineExceeded(f"the handshake did not finish within {seconds:.3g} seconds")
    found.server_name = None if engine is None else engine.server_name
    return found


def run(sock: socket.socket, engine: Engine | RemoteEngine, timeout: float) -> None:
    """Do a whole handshake over a blocking socket; afterwards ``engine.result()`` is set.

    Args:
        sock: connected; its timeout is left as it was.
        engine: fresh.
        timeout: seconds for everything.

    Raises:
        HandshakeError: the handshake failed; the peer has been sent its alert.
        DeadlineExceeded: the handshake took too long.
        OSError: the connection broke.
    """
    deadline = time.monotonic() + timeout
    blocking = sock.gettimeout()
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
    granted = math.inf
    while True:
        remaining = _left(deadline)
        if granted - remaining > _LENIENCE * remaining:
            sock.settimeout(remaining)
            granted = remaining
        if output := engine.output():
            _send(sock, output)
        if engine.result() is not None:
            return
        received = sock.recv(engine.need())
        try:
            engine.feed(received)
            if engine.is_remote:
                for what in engine.attend():
                    _wait(what, _left(deadline))
        except HandshakeError:
            with contextlib.suppress(OSError):  # the peer may have gone, and need no alert
                _send(sock, engine.output())
            raise


def _left(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _send(sock: socket.socket, flight: bytes) -> None:
    """Send a flight, which mostly fits into the socket's buffer, without waiting for room first.

    It is one write, so that Nagle's algorithm does not hold back its end: Linux only delays a small
    segment behind another one that is not acknowledged (tcp_nagle_check, net/ipv4/tcp_output.c).
    """
    try:
        sent = os.write(sock.fileno(), flight)
    except BlockingIOError:
        sent = 0
    if sent < len(flight):
        sock.sendall(flight[sent:])


def _wait(what: socket.socket | float, remaining: float) -> None:
    if isinstance(what, float):
        time.sleep(min(what, remaining))
    else:
        poller = select.poll()
        poller.register(what, select.POLLIN)
        poller.poll(remaining * 1000)


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
