"""This process's live connections, and the socket that reports them to `tlsify status`."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.status import census, entries
from tlsify.status.hearing import PEER
from tlsify.system import sandbox
from tlsify.system.modes import make_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")

_BACKLOG = 16
_AT_ONCE = 256  # rows before other threads get a turn
_PATIENCE = 5.0  # seconds for one answer
_PAUSE = 1.0  # seconds before accept() is tried again
_ROOT = 0

_live: set[listed] = set()
_publications: weakref.WeakSet[Publication] = weakref.WeakSet()


class listed:  # noqa: N801 - used as a function is
    """``with listed(handed):`` has a connection on the roster for as long as the block lasts.

    It costs a microsecond: details are looked up only for an answer.
    """

    __slots__ = ("_handed", "_since")

    def __init__(self, handed: Handoff) -> None:
        """Add the connection, with the time."""
        self._handed = handed
        self._since = time.monotonic()

    def __enter__(self) -> None:
        """Add it to the roster."""
        _live.add(self)

    def __exit__(self, *_: object) -> None:
        """Remove the connection."""
        _live.discard(self)

    def entry(self, now: float) -> entries.Entry:
        """Return the connection's row.

        Args:
            now: the monotonic clock's.
        """
        handed, agreed = self._handed, self._handed.negotiated
        local, peer, rekeys, records = None, None, None, None
        if (channel := handed.channel) is not None:
            sock = channel.sock
            rekeys = (channel.session.updates_sent, channel.session.updates_received)
            local, peer = _address(sock.getsockname), _address(sock.getpeername)
            with contextlib.suppress(OSError):
                tx, rx = (ulp.next_seq(sock, each, agreed.suite.aead) for each in Direction)
                records = (tx, rx)
        elif handed.relay is not None:
            local, peer = (
                _plain(each) for each in (handed.relay.local_address, handed.relay.peer_address)
            )
        return entries.Entry(
            local=local,
            peer=peer,
            server_name=agreed.server_name,
            alpn=None if agreed.alpn is None else agreed.alpn.decode("utf-8", "backslashreplace"),
            version=agreed.version.label,
            suite=agreed.suite.name,
            group=agreed.group,
            resumed=agreed.resumed,
            offload=handed.offload.value,
            reason=handed.reason,
            age=max(round(now - self._since, 3), 0.0),
            rekeys=rekeys,
            records=records,
        )


def _address(ask: Callable[[], Any]) -> tuple[str, int] | None:
    try:
        return _plain(ask())
    except OSError:
        return None


def _plain(address: Any) -> tuple[str, int] | None:
    """Return host and port alone: /proc and sock_diag have no scope or flow label of IPv6."""
    if not isinstance(address, tuple) or not isinstance(address[0], str):
        return None  # broken, or of another family
    return address[0].partition("%")[0], address[1]


# -- publishing


def place() -> Path | None:
    """Return the folder that `publish` will take; create it if it does not exist."""
    return next(_own_places(), None)


def _own_places() -> Iterator[Path]:
    for place in census.places():
        try:
            make_private(place.parent)
            make_private(place)
            with census.opened(place) as (_, owner):
                is_ours = owner == os.geteuid()
        except OSError as exc:
            _log.debug("no roster in %s: %s", place, exc)
            continue
        if is_ours:
            yield place


def publish() -> Publication:
    """Publish this process's connections for `tlsify status`, for as long as the block lasts.

    ``with publish():`` belongs where connections are served: in each worker, after the fork. A
    child that is forked inside the block does not continue it. If no folder or thread is available,
    the block runs all the same.
    """
    return Publication()


class Publication:
    """A socket in a private folder, and a thread that answers there.

    A client that is root or of this process's user gets the roster (`entries.FIELDS`). It contains
    no secrets.
    """

    def __init__(self) -> None:
        """Prepare; ``with`` begins."""
        self._listener: socket.socket | None = None
        self._folder: str | os.PathLike[str] = ""
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._asking: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        """Listen, and begin to answer."""
        self._listener = self._listen()
        if self._listener is not None:
            thread = threading.Thread(
                target=self._answer_all, args=(self._listener,), name="tlsify-roster", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as exc:
                _log.warning("no roster for tlsify status: %s", exc)
                self._withdraw()
                self.forget()
            else:
                _publications.add(self)
                self._thread = thread
        return self

    def __exit__(self, *_: object) -> None:
        """Stop answering, even in the middle of an answer."""
        if self._listener is None or self._thread is None:
            return
        _publications.discard(self)
        self._ending.set()
        self._withdraw()
        for sock in (self._listener, self._asking):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(_PATIENCE)
        self._listener.close()

    def _withdraw(self) -> None:
        with contextlib.suppress(OSError), census.opened(Path(self._folder)) as (folder, _):
            os.unlink(self._name, dir_fd=folder)

    def forget(self) -> None:
        """Forget thread and socket in a forked child: they are the parent's."""
        if self._listener is not None:
            self._listener.close()
        self._listener = None

    def _listen(self) -> socket.socket | None:
        for place in _own_places():
            try:
                with census.opened(place) as (folder, owner):
                    _sweep(folder, owner)
                    self._folder = place
                    return self._bind(folder)
            except OSError as exc:
                _log.debug("no roster in %s: %s", place, exc)
        return None

    def _bind(self, folder: int) -> socket.socket:
        """Listen under a hidden name first: a socket that refuses counts as a dead process's."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            # By descriptor: a path may have 107 bytes at most.
            listener.bind(f"/proc/self/fd/{folder}/.{self._name}")
            os.chmod(f".{self._name}", 0o600, dir_fd=folder)
            listener.listen(_BACKLOG)
            os.rename(f".{self._name}", self._name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            listener.close()
            raise
        return listener

    def _answer_all(self, listener: socket.socket) -> None:
        while not self._ending.is_set():
            try:
                self._asking = listener.accept()[0]
            except OSError:  # out of descriptors, unless this is the end
                self._ending.wait(_PAUSE)
                continue
            with self._asking:
                try:
                    _answer(self._asking)
                except OSError as exc:
                    _log.debug("roster not delivered: %s", exc)
                except Exception:  # noqa: BLE001 - the thread must go on
                    _log.exception("bug in the roster")


def _answer(asking: socket.socket) -> None:
    """Send the roster.

    Raises:
        OSError: the client is gone, or takes too long.
    """
    credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    if PEER.unpack(credentials)[1] not in {_ROOT, os.geteuid()}:
        return
    deadline, now, present = time.monotonic() + _PATIENCE, time.monotonic(), list(_live)
    network = os.stat("/proc/self/ns/net").st_ino
    text = entries.write_head(entries.Head(network, len(present), sandbox.in_force()))
    for at in range(0, len(present) + 1, _AT_ONCE):
        found = [each.entry(now) for each in present[at : at + _AT_ONCE]]
        text = "\n".join([text, *entries.lines(found)])
        asking.settimeout(max(deadline - time.monotonic(), 0.001))
        asking.sendall(text.encode())
        text = ""


def _sweep(folder: int, owner: int) -> None:
    """Remove the sockets of killed processes."""
    for name in os.listdir(folder):
        if not os.path.exists(f"/proc/{name.lstrip('.').partition('-')[0]}"):
            with contextlib.suppress(OSError):
                if (sock := census.reach(folder, name, owner)) is not None:
                    sock.close()  # it lives, in another PID namespace


def _after_fork() -> None:
    """Forget all connections in a forked child: they are the parent's."""
    _live.clear()
    for each in list(_publications):
        each.forget()
    _publications.clear()


os.register_at_fork(after_in_child=_after_fork)
