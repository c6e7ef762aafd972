"""Carry bytes between two descriptors and a TLS connection until both directions have ended."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

from tlsify.stream import TLSSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import ClosePolicy
    from tlsify.handoff import Handoff

_log = logging.getLogger("tlsify")
_CHUNK = 2**18
_NAMES = {0: "stdin", 1: "stdout"}


def half_close(stream: TLSSocket) -> None:
    """Tell the peer that nothing more will be sent."""
    stream.shutdown(socket.SHUT_WR)


def stay_silent(stream: TLSSocket) -> None:
    """Tell the peer nothing."""


def pump(  # noqa: PLR0913 - most are left alone
    handoff: Handoff,
    closing: ClosePolicy,
    source: int = 0,
    sink: int = 1,
    *,
    is_server: bool,
    end: Callable[[TLSSocket], None] = half_close,
) -> None:
    """Send what can be read from one descriptor, and write what is received to another.

    Returns when the peer has closed, and everything it sent has been written. A client that has
    closed may still wait for its answer: a server closes ``sink`` then, and goes on sending until
    ``source`` ends.

    Args:
        handoff: closed at the end.
        closing: what an end of stream without close_notify is.
        source: its end becomes close_notify; receiving goes on.
        sink: where what comes is written.
        is_server: whether the peer is a client.
        end: what the end of ``source`` becomes instead.

    Raises:
        HandshakeError: the connection ended badly.
        OSError: likewise, or one of the descriptors failed: ``filename`` tells which.
    """
    unreadable: list[OSError] = []
    with TLSSocket(handoff, closing) as stream:
        # Nothing wakes a thread that waits for a descriptor: nobody waits for its end.
        sending = threading.Thread(
            target=_send, args=[stream, source, unreadable, end], daemon=True
        )
        sending.start()
        try:
            while data := stream.recv(_CHUNK):
                _write(sink, data)
            if is_server:
                os.close(sink)
                sending.join()
        finally:
            if unreadable:
                raise unreadable[0]


def _send(
    stream: TLSSocket, source: int, unreadable: list[OSError], end: Callable[[TLSSocket], None]
) -> None:
    try:
        while data := _read(stream, source, unreadable):
            stream.sendall(data)
        if not unreadable:
            end(stream)
    except OSError as exc:
        # The receiving side finds out what happened and reports it.
        _log.debug("sending ended: %s", exc)


def _read(stream: TLSSocket, source: int, unreadable: list[OSError]) -> bytes:
    """Read some; if that fails, which is not the end, wake the receiving side."""
    try:
        return os.read(source, _CHUNK)
    except OSError as exc:
        unreadable.append(OSError(exc.errno, exc.strerror, _name(source)))
        stream.shutdown(socket.SHUT_RD)
        return b""


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(sink, view) :]
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, _name(sink)) from exc


def _name(number: int) -> str:
    return _NAMES.get(number, f"descriptor {number}")
