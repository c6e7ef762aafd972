"""Connect to a name with several addresses, some of which may be dead (RFC 8305), in time."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import threading
import time
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tlsify.errors import SHORTAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

# What ``getaddrinfo`` gives for one address: family, type, protocol, canonical name, address.
Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]

# Seconds after which the next address is tried beside those that have not answered (RFC 8305 5).
ATTEMPT_DELAY = 0.25
# Most seconds of one wait: poll counts milliseconds in an int.
_LONGEST_WAIT = 3600.0
# This host has no route: that says least about the other host.
_NO_WAY = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


class Silence(TimeoutError):
    """No answer within the caller's limit, from a host or from a name server.

    The kernel's own timeout, after some minutes, is a TimeoutError with an errno instead.

    Attributes:
        is_named: whether the name had been looked up by then.
    """

    def __init__(self, *, is_named: bool) -> None:
        """Store whether the name server or the host was silent."""
        super().__init__("it does not answer" if is_named else "its name server does not answer")
        self.is_named = is_named


class Wait(NamedTuple):
    """A wait of `race`.

    Attributes:
        socks: wait until one of these is writable.
        seconds: wait no longer than this; None sets no limit.
    """

    socks: Sequence[socket.socket]
    seconds: float | None


def connect_here(path: str, timeout: float) -> socket.socket:
    """Connect to a socket of this host; a first "@" in its path stands for NUL.

    Returns:
        A blocking socket.

    Raises:
        Silence: its queue stays full for so many seconds.
        OSError: there is no listener.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.settimeout(None)
    except BaseException as exc:
        sock.close()
        if isinstance(exc, TimeoutError):
            raise Silence(is_named=True) from exc
        raise
    return sock


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Resolve a name, and connect to the first of its addresses that answers.

    Args:
        host: name or address.
        port: of TCP.
        timeout: seconds for all of it.

    Returns:
        A blocking socket.

    Raises:
        Silence: it takes too long.
        OSError: every address failed; of several errors the one that says most.
    """
    deadline = time.monotonic() + timeout
    found = look_up(host, port, timeout, type=socket.SOCK_STREAM)
    failures: list[OSError] = []
    steps = race(found, failures)
    ready: list[socket.socket] | None = None
    while True:
        try:
            step = next(steps) if ready is None else steps.send(ready)
        except StopIteration as end:
            sock: socket.socket = end.value
            sock.settimeout(None)
            return sock
        left = deadline - time.monotonic()
        if left <= 0:
            steps.close()
            raise truest([*failures, Silence(is_named=True)])
        pause = math.inf if step.seconds is None else step.seconds
        ready = _writable(step.socks, min(left, pause, _LONGEST_WAIT))


def _writable(socks: Sequence[socket.socket], seconds: float) -> list[socket.socket]:
    poller = select.poll()
    for sock in socks:
        poller.register(sock, select.POLLOUT)
    ready = {number for number, _ in poller.poll(math.ceil(seconds * 1000))}
    return [sock for sock in socks if sock.fileno() in ready]


def race(
    found: Iterable[Address],
    failures: list[OSError],
    local: Iterable[Address] = (),
    delay: float = ATTEMPT_DELAY,
) -> Generator[Wait, Sequence[socket.socket], socket.socket]:
    """Try addresses one after the other, a moment apart, and take the first that answers.

    Does no waiting itself: the caller sends in the sockets that have become writable. Closing the
    generator closes all sockets.

    Args:
        found: where to connect to, the most wanted first; families take turns (RFC 8305 4).
        failures: receives one error for each address that failed.
        local: where to connect from, by family; empty leaves it to the kernel.
        delay: seconds before the next address is tried as well; ``inf`` tries one at a time.

    Returns:
        A non-blocking socket.

    Raises:
        OSError: every address failed; of several errors the one that says most.
    """
    waiting = interleave(found)
    trying: list[socket.socket] = []
    next_at = -math.inf
    try:
        while waiting or trying:
            if waiting and (not trying or time.monotonic() >= next_at):
                try:
                    trying.append(_begin(waiting.pop(0), list(local)))
                except OSError as exc:
                    failures.append(exc)
                else:
                    next_at = time.monotonic() + delay
                continue
            limited = waiting and next_at < math.inf
            pause = max(0.0, next_at - time.monotonic()) if limited else None
            for sock in (yield Wait(tuple(trying), pause)):
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                trying.remove(sock)
                if not number:
                    return sock
                sock.close()
                failures.append(OSError(number, os.strerror(number)))
                next_at = -math.inf  # the next one need not wait
    finally:
        for sock in trying:
            sock.close()
    raise truest(failures or [OSError("the name has no address")])


def _begin(target: Address, local: list[Address]) -> socket.socket:
    """Begin to connect.

    Raises:
        OSError: it failed at once.
    """
    family, kind, protocol, _, address = target
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(0)
        if local:
            _bind(sock, [each[4] for each in local if each[0] == family])
        number = sock.connect_ex(address)
        if number not in {0, errno.EINPROGRESS}:
            raise OSError(number, os.strerror(number))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, addresses: list[tuple[Any, ...]]) -> None:
    failure = OSError(errno.EAFNOSUPPORT, "no local address of this family was given")
    for address in addresses:
        try:
            sock.bind(address)
        except OSError as exc:
            failure = exc
        else:
            return
    raise failure


def interleave(found: Iterable[Address]) -> list[Address]:
    """Return the addresses with families taking turns, so that a dead family costs one moment."""
    families: dict[int, list[Address]] = {}
    for each in found:
        families.setdefault(each[0], []).append(each)
    rounds = zip_longest(*families.values())
    return [each for each in chain.from_iterable(rounds) if each is not None]


def truest(failures: Sequence[OSError]) -> OSError:
    """Return the error that says most: our own want, an answer, silence, or no route.

    Among equals it is the first.
    """
    return min(failures, key=_rank)


def _rank(failure: OSError) -> int:
    if failure.errno in SHORTAGES:
        return 0  # the address that could not be tried may be the one that works
    if failure.errno == errno.ECONNREFUSED:
        return 1  # the host itself said so
    if isinstance(failure, TimeoutError):
        return 3
    return 4 if failure.errno in _NO_WAY else 2


def start_look_up(work: Callable[[], None]) -> threading.Thread:
    """Start a look-up in a thread that may be abandoned.

    Raises:
        OSError: EAGAIN, there are no threads to be had.
    """
    # A daemon: a resolver that hangs must not keep the process alive.
    thread = threading.Thread(target=work, name="tlsify-look-up", daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        raise OSError(errno.EAGAIN, f"no thread to look the name up: {exc}") from exc
    return thread


def look_up(host: Any, port: Any, timeout: float, **wanted: int) -> list[Address]:
    """Resolve a name as ``socket.getaddrinfo`` does, but with a time limit.

    Args:
        host: name or address.
        port: number, or name of a service.
        timeout: seconds.
        wanted: further arguments of ``getaddrinfo``.

    Raises:
        Silence: it takes too long.
        OSError: there is no such name.
    """
    if (numeric := read(host, port, **wanted)) is not None:
        return numeric
    found: list[list[Address]] = []
    failures: list[OSError | ValueError] = []

    def work() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, **wanted))  # type: ignore[arg-type]
        except (OSError, ValueError) as exc:
            failures.append(exc)

    thread = start_look_up(work)
    thread.join(min(timeout, threading.TIMEOUT_MAX))
    if failures:
        raise failures[0]
    if not found:
        raise Silence(is_named=False)
    return found[0]


def read(host: Any, port: Any, **wanted: int) -> list[Address] | None:
    """Return the addresses of a numeric host, without any look-up; None if it is a name."""
    flags = wanted.pop("flags", 0) | socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(host, port, flags=flags, **wanted)
    except socket.gaierror:
        return None
    return found  # type: ignore[return-value]


@contextlib.contextmanager
def closed_on_error(sock: socket.socket) -> Iterator[None]:
    """Close a socket if the block fails: half a TLS connection is of no use."""
    try:
        yield
    except BaseException:
        sock.close()
        raise
