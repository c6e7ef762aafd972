"""Upkeep of a sending key while a program writes to the connection by itself."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

from tlsify.connection.ending.patience import Patience, written
from tlsify.errors import TlsifyError
from tlsify.keys import Direction
from tlsify.metrics.counters import Event, count

if TYPE_CHECKING:
    from tlsify.connection.control import Channel

# Seconds between two looks at the number of records sent. A key may protect 2**24, and is changed
# from half of them on: at 16 KiB each that leaves 4 GB/s of room.
_LOOK = 30.0
# Seconds between two steps of a change: they become longer while the peer takes nothing.
_FIRST_STEP, _LAST_STEP = 0.001, 0.02
# Seconds until the next try where there can be no thread.
_SHORTAGE = 1.0
# A KeyUpdate as TCP has it: header, message, content type, and the tag of every cipher that has one
# of 16 bytes, as all of the kernel's do.
_RECORD = 5 + 5 + 1 + 16


class Upkeep:
    """Changes the sending key when that is due, between two writes of a program.

    The right to send (`Sender.writing`) is taken: nothing else in this process sends.
    """

    def __init__(self, channel: Channel, *, is_new: bool = False) -> None:
        """Begin; `look` has to be called from now on.

        Args:
            channel: the connection's.
            is_new: whether nothing has been sent yet.
        """
        self._channel = channel
        self._look_at = time.monotonic() + _LOOK if is_new else 0.0
        self._not_before = 0.0
        self._change: _Change | None = None
        self._patience: Patience | None = None
        self._is_over = False
        channel.writing.lend()

    @property
    def is_due(self) -> bool:
        """Whether the peer has asked for another key, and has none yet."""
        session = self._channel.session
        return session.update_due and not session.close_notify_sent

    def look(self) -> float:
        """Do the next step that is due; return the seconds until the next call.

        Raises:
            RekeyUnsupported: the key has protected enough, and no other can follow it: the
                connection was ended.
            KtlsError: the kernel refuses the next key: likewise.
            OSError: sending is over.
        """
        now = time.monotonic()
        if self._change is None:
            begin = self._not_before if self.is_due else self._look_at
            if now < begin:
                return begin - now
            is_worn = self._channel.refresh(may_update=False)
            self._look_at = now + _LOOK
            if not (is_worn or self.is_due):
                return _LOOK
            try:
                self._change = _Change(self._channel)
            except RuntimeError:
                count(Event.SHORTAGE)
                self._look_at = self._not_before = now + _SHORTAGE
                return _SHORTAGE
        try:
            pause = self._change.step()
        except BaseException:
            self._change = None
            raise
        if pause is None:
            self._change = None
            return self.look()
        return pause

    def end(self) -> float | None:
        """Give the right to send back, once the program does not write any more.

        Returns:
            None when that is done; the seconds until the next call if a change is under way, which
            has to be complete before close_notify.
        """
        if self._is_over:
            return None
        if self._change is not None:
            with contextlib.suppress(TlsifyError, OSError):
                if self._change.hasten():
                    if self._patience is None:
                        self._patience = Patience(self._channel.sock)
                    if self._patience.is_over():
                        self._channel.sock.shutdown(socket.SHUT_WR)
                    return self._patience.pause()
        self._is_over, self._change = True, None
        self._channel.writing.release()
        return None


class _Change:
    """One change of the key: a KeyUpdate, and the next key before any other record.

    Both are calls of ours, and a program's write between them would break the connection. So TCP
    keeps the KeyUpdate (TCP_CORK), and takes nothing more while it has something to send
    (TCP_NOTSENT_LOWAT): writers wait, or get EAGAIN, until the next key is there.

    A blocking write has a lock in the kernel while it waits for room (net/tls/tls_sw.c tx_lock). We
    get our turn behind it only if we wait as well: in a thread. The cork keeps the ends of the
    program's records meanwhile, so these are pushed, but never along with the KeyUpdate.
    """

    def __init__(self, channel: Channel) -> None:
        """Begin.

        Raises:
            RuntimeError: there can be no thread.
            OSError: the connection is gone.
        """
        self._channel = channel
        self._sock = channel.sock
        self._following = channel.session.next_generation(Direction.TX)
        self._pause = _FIRST_STEP
        self._pushed = -1
        self._failure: BaseException | None = None
        self._options = [
            (each, self._sock.getsockopt(socket.IPPROTO_TCP, each))
            for each in (socket.TCP_NODELAY, socket.TCP_NOTSENT_LOWAT)
        ]
        self._thread = threading.Thread(target=self._run, name="tlsify-key-update", daemon=True)
        self._set(socket.TCP_NODELAY, 1)
        self._set(socket.TCP_NOTSENT_LOWAT, 1)
        try:
            self._thread.start()
        except BaseException:
            self._release()
            raise

    def _run(self) -> None:
        room = select.poll()
        room.register(self._sock, select.POLLOUT)
        try:
            while not self._try():
                room.poll(_LAST_STEP * 1000)
        except (TlsifyError, OSError) as exc:
            self._failure = exc

    def _try(self) -> bool:
        self._set(socket.TCP_CORK, 1)
        try:
            self._channel.change_key(self._following)
        except BlockingIOError:  # the program's writes do not block, either
            self._set(socket.TCP_CORK, 0)
            return False
        return True

    def step(self) -> float | None:
        """Help it on; return the seconds until the next step, or None at the end.

        Raises:
            KtlsError: the kernel refuses the next key.
            OSError: sending is over.
        """
        if not self._thread.is_alive():
            self._release()
            if self._failure is not None:
                raise self._failure
            return None
        pause, self._pause = self._pause, min(self._pause * 2, _LAST_STEP)
        if os.get_blocking(self._sock.fileno()):
            self._push()
        return pause

    def _push(self) -> None:
        """Send the end of a program's record; what comes after it is corked (tcp(7) TCP_NODELAY).

        Each one but once: as long as it is there the KeyUpdate is not, but then it may leave at any
        time, and the KeyUpdate come.
        """
        self._set(socket.TCP_NODELAY, 0)
        total, unsent = written(self._sock)
        if total != self._pushed and unsent not in {0, _RECORD}:
            self._set(socket.TCP_NODELAY, 1)
            self._set(socket.TCP_NOTSENT_LOWAT, 1)  # wakes those who wait for room
            self._pushed, self._pause = total, _FIRST_STEP

    def hasten(self) -> bool:
        """Let the KeyUpdate go behind whatever is unsent: no write can follow it any more.

        Returns:
            Whether it waits for room all the same.
        """
        waits = self._thread.is_alive()
        self._release()
        return waits

    def _release(self) -> None:
        if not self._thread.is_alive():
            self._following.wipe()
        with contextlib.suppress(OSError):
            for option, value in self._options:
                self._set(option, value)
            self._set(socket.TCP_CORK, 0)

    def _set(self, option: int, value: int) -> None:
        self._sock.setsockopt(socket.IPPROTO_TCP, option, value)
