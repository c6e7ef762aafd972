"""What happens on a connection, step by step, and the stage on which it does."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tests.doubles import queued, reset, until
from tests.odd_peers.outcome import FAREWELL, Outcome, name, spell
from tlsify.codepoints import AlertDescription, ContentType, HandshakeType
from tlsify.connection.relay.pump import Relay
from tlsify.errors import TlsifyError

if TYPE_CHECKING:
    from tests.doubles import RawPeer
    from tests.odd_peers.parts import Part
    from tlsify.connection.stream import TLSSocket


@dataclass
class Stage:
    """Both ends of a connection, and what has become of it.

    Attributes:
        stream: the program's.
        peer: the odd one.
        notes_tickets: whether the tickets that the peer sees are told, too.
    """

    stream: TLSSocket
    peer: RawPeer
    notes_tickets: bool = False
    got: bytearray = field(default_factory=bytearray)
    end: str = ""
    saw: list[bytes | str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until our side has what the peer has sent; a relay has dealt with it then.

        Behind the end of the peer's direction a relay need not look any more.
        """
        if self.peer.sock.fileno() != -1:
            with suppress(OSError):  # reset
                until(lambda: not _unacknowledged(self.peer.sock))
        relay = self.stream.handoff.relay
        if isinstance(relay, Relay):
            with suppress(OSError, ValueError):  # over, and closed
                until(lambda: relay.is_settled or relay.is_over or not queued(relay.network))

    def read(self, size: int | None = None) -> None:
        """Make the program read so much, or to the end."""
        wanted = len(self.got) + (size or 0)
        while not self.end and (size is None or len(self.got) < wanted):
            try:
                received = self.stream.recv(2**16 if size is None else wanted - len(self.got))
            except (TlsifyError, OSError) as exc:
                self.end = name(exc)
            else:
                self.got += received
                if not received:
                    self.end = "end"

    def observe(self, size: int | None = None) -> None:
        """Make the peer receive so much data, or to the end."""
        heard = 0
        while size is None or heard < size:
            try:
                record = self.peer.recv()
            except ConnectionResetError:
                self.saw.append("RST")
                return
            except TimeoutError:
                self.saw.append("no end")
                return
            if record is None:
                self.saw.append("FIN")
                return
            heard += self._note(*record)

    def _note(self, content_type: int, payload: bytes) -> int:
        if content_type == ContentType.application_data:
            if self.saw and isinstance(self.saw[-1], bytes):
                self.saw[-1] += payload
            else:
                self.saw.append(payload)
            return len(payload)
        if content_type == ContentType.alert:
            self.saw.append(AlertDescription(payload[1]).name)
        elif payload[0] == HandshakeType.key_update:
            self.saw.append("KeyUpdate")
            self.peer.follow_key_update()
        elif self.notes_tickets:
            self.saw.append(HandshakeType(payload[0]).name)
        return 0

    def finish(self) -> Outcome:
        """Read to the end, say farewell and close; return how it went."""
        self.read()
        with suppress(OSError):
            self.stream.sendall(FAREWELL)
        self.stream.close()
        if self.peer.sock.fileno() != -1:
            self.observe()
        saw = tuple(spell(each) if isinstance(each, bytes) else each for each in self.saw)
        return Outcome(bytes(self.got), self.end, saw)


def _unacknowledged(sock: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(count)


@runtime_checkable
class Step(Protocol):
    """Something that one of the two does."""

    def play(self, stage: Stage) -> None:
        """Do it."""


class Send:
    """The peer sends one segment."""

    def __init__(self, *parts: Part) -> None:
        """Store its parts."""
        self._parts = parts

    def play(self, stage: Stage) -> None:
        """Send it."""
        segment = b"".join(part.seal(stage.peer) for part in self._parts)
        with suppress(ConnectionError):  # it may be over already: what came before ended it
            stage.peer.sock.sendall(segment)


class Fin:
    """The peer ends its direction of the TCP connection."""

    def play(self, stage: Stage) -> None:
        """Shut it down."""
        with suppress(OSError):  # likewise
            stage.peer.sock.shutdown(socket.SHUT_WR)


class Reset:
    """The peer resets the TCP connection, once what it sent has come."""

    def play(self, stage: Stage) -> None:
        """Reset it."""
        stage.settle()
        reset(stage.peer.sock)


class Says:
    """The program sends data, once what the peer has sent before has come."""

    def __init__(self, content: bytes) -> None:
        """Store the data."""
        self._content = content

    def play(self, stage: Stage) -> None:
        """Send it; what becomes of it the peer sees."""
        stage.settle()
        with suppress(OSError):
            stage.stream.sendall(self._content)


class HalfCloses:
    """The program ends its direction, once what the peer has sent before has come."""

    def play(self, stage: Stage) -> None:
        """Shut it down."""
        stage.settle()
        stage.stream.shutdown(socket.SHUT_WR)


class Reads:
    """The program receives so many bytes, or the end."""

    def __init__(self, size: int) -> None:
        """Store their number."""
        self._size = size

    def play(self, stage: Stage) -> None:
        """Receive them."""
        stage.read(self._size)


class Looks:
    """The program looks whether there is anything to read, and there is nothing."""

    def play(self, stage: Stage) -> None:
        """Look."""
        stage.settle()
        timeout = stage.stream.gettimeout()
        stage.stream.settimeout(0)
        with suppress(BlockingIOError):
            stage.got += stage.stream.recv(1)
        stage.stream.settimeout(timeout)


class Hears:
    """The peer receives so many bytes of data."""

    def __init__(self, size: int) -> None:
        """Store their number."""
        self._size = size

    def play(self, stage: Stage) -> None:
        """Receive them."""
        stage.observe(self._size)
