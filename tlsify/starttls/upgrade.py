"""Ask a server, in its own protocol, to change to TLS.

The dialogue is plaintext, which an attacker may have written. So nothing secret is
sent, nothing of what was said is kept, and not one byte behind the go-ahead is read: whatever comes
there meets the TLS engine (RFC 3207 6, CVE-2011-0411).
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from tlsify.errors import ConfigError, DeadlineExceeded, HandshakeError, Truncated
from tlsify.starttls.dialogues import DIALOGUES, LONGEST, SHOWN, SOMETHING_ELSE, Read, quote

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

PROTOCOLS = tuple(sorted(DIALOGUES))
# All that a server may say before its go-ahead.
_TOTAL = 2**16


def upgrade(sock: socket.socket, protocol: str, name: str, timeout: float) -> None:
    """Ask the server to change to TLS; afterwards it expects a ClientHello.

    The server's greeting is read here, and is not repeated inside TLS. Most
    protocols start anew there; MySQL's does not, and would need what was in it.

    Args:
        sock: connected, with nothing read or sent yet. Its timeout is left as it was. After an
            error it is good for nothing but being closed, which is left to the caller.
        protocol: one of `PROTOCOLS`.
        name: the server's name, which XMPP wants to hear.
        timeout: seconds for everything.

    Raises:
        ConfigError: there is no such protocol; nothing was sent.
        HandshakeError: the server does not offer TLS, refuses it, speaks something else, or goes on
            in plaintext behind its go-ahead.
        Truncated: the server closed the connection.
        DeadlineExceeded: the dialogue took too long.
        OSError: the connection broke.
    """
    before, deadline = sock.gettimeout(), time.monotonic() + timeout
    try:
        for output in converse(sock, protocol, name):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            sock.settimeout(remaining)
            if output:
                sock.sendall(output)
    except TimeoutError as exc:
        if exc.errno is not None:  # as in `handshake.run`
            raise
        raise too_slow(timeout) from exc
    finally:
        with contextlib.suppress(OSError):
            sock.settimeout(before)


def too_slow(timeout: float) -> DeadlineExceeded:
    """Return the error of a dialogue that took longer than so many seconds."""
    return DeadlineExceeded(
        f"starttls: no go-ahead from the server within {timeout:.3g} seconds", hint=SOMETHING_ELSE
    )


def converse(sock: socket.socket, protocol: str, name: str) -> Iterator[bytes]:
    """Hold the dialogue, in steps: yield what to send, or nothing before each receive.

    Whoever goes through the steps sends, and sees to the time and to the waiting: a receive may
    wait, as the socket is set; or else it is done again at the next step.

    Args:
        sock: as `upgrade` has it, and so the others.
        protocol: likewise.
        name: likewise.

    Raises:
        As `upgrade`, but for the time.
    """
    if protocol not in DIALOGUES:
        known = ", ".join(PROTOCOLS)
        raise ConfigError(f"starttls: no protocol {protocol!r}", hint=f"choose one of {known}")
    dialogue, reader = DIALOGUES[protocol](name, _address_literal(sock)), _Reader(sock)
    with contextlib.suppress(StopIteration):
        step = next(dialogue)
        while True:
            if isinstance(step, Read):
                step = dialogue.send((yield from reader.read(*step)))
            else:
                yield step
                step = next(dialogue)
    _expect_silence(sock)


class _Reader:
    """Reads no more than is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._left = sock, _TOTAL

    def read(self, size: int, mark: bytes) -> Generator[bytes, None, bytes]:
        """Read so many bytes, or up to the mark."""
        got = bytearray()
        while len(got) < size <= LONGEST and not (mark and got.endswith(mark)):
            yield b""
            try:
                piece = self._receive(size - len(got), mark)
            except BlockingIOError:
                continue
            if not piece:
                said = f", after {quote(got)}" if got else ""
                raise Truncated(
                    f"starttls: the server closed the connection{said}", hint=SOMETHING_ELSE
                )
            got += piece
        self._left -= len(got)
        if self._left < 0 or size > LONGEST or not got.endswith(mark):
            said = f", at the end {quote(got)}" if got else ""
            raise HandshakeError(f"starttls: the server says too much{said}", hint=SOMETHING_ELSE)
        return bytes(got)

    def _receive(self, size: int, mark: bytes) -> bytes:
        if mark:
            seen = self._sock.recv(size, socket.MSG_PEEK)
            size = seen.find(mark) + 1 or len(seen)
        return self._sock.recv(size)


def _expect_silence(sock: socket.socket) -> None:
    """Refuse what lies behind the go-ahead: a TLS client speaks first, so this cannot be TLS.

    What comes a moment later is refused as well, if less plainly: the engine takes it for a record.
    """
    sock.settimeout(0)
    try:
        early = sock.recv(SHOWN, socket.MSG_PEEK)
    except BlockingIOError:
        return
    if early:
        raise HandshakeError(
            f"starttls: plaintext behind the go-ahead: {quote(early)}",
            hint="an attacker in between may have injected it",
        )


def _address_literal(sock: socket.socket) -> str:
    """Return our own address as RFC 5321 4.1.3 writes it: always valid, without a look-up."""
    if sock.family == socket.AF_INET:
        return f"[{sock.getsockname()[0]}]"
    if sock.family == socket.AF_INET6:
        return f"[IPv6:{sock.getsockname()[0].partition('%')[0]}]"
    return "localhost"
