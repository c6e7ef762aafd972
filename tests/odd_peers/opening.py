"""What an odd peer does in the handshake, and a peer that does it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.doubles import RawPeer, keys_of, reset
from tlsify.codepoints import AlertDescription, CipherSuite, ContentType, ProtocolVersion
from tlsify.config import ClientConfig
from tlsify.errors import HandshakeError, PeerAlert
from tlsify.tls import schedule
from tlsify.tls.engine import Engine
from tlsify.tls.handshake_keys import secrets
from tlsify.tls.protection import open_record
from tlsify.tls.record import HEADER_LENGTH, encode_record, split_records

if TYPE_CHECKING:
    from tests.odd_peers.parts import Part
    from tlsify.config import ServerConfig
    from tlsify.tls.negotiated import Negotiated

_ALERT_RECORD = HEADER_LENGTH + 2


@dataclass(frozen=True)
class Halt:
    """The handshake goes no further.

    Attributes:
        flight: in which of the peer's flights, counted from 0.
        keep: how much of that flight is sent, from 0 to 1.
        instead: what is sent in place of the rest.
        resets: whether RST ends it, instead of FIN.
    """

    flight: int
    keep: float = 0
    instead: bytes = b""
    resets: bool = False


@dataclass(frozen=True)
class Opening:
    """What is odd about a peer's handshake.

    Attributes:
        fragment: how many bytes its records without protection hold at most; 0 for any number.
        dribbles: whether each byte is sent by itself.
        behind: what comes in one segment with its last flight.
        early: what comes in one segment with a flight that is not the last: behind a TLS 1.3
            server's Finished (0.5-RTT data), or a TLS 1.2 client's (RFC 7918 false start).
        halt: where it ends.
        foreign: makes it another implementation's, with no more than so many bytes in a record.
    """

    fragment: int = 0
    dribbles: bool = False
    behind: tuple[Part, ...] = ()
    early: tuple[Part, ...] = ()
    halt: Halt | None = None
    foreign: int = 0


class Halted(Exception):
    """The handshake has come to no end; the argument is what the peer saw instead of one."""


class OddPeer(RawPeer):
    """Does the handshake as an `Opening` says; afterwards it is a `RawPeer`."""

    def __init__(
        self,
        sock: socket.socket,
        config: ClientConfig | ServerConfig,
        opening: Opening,
    ) -> None:
        """Do the handshake.

        Args:
            sock: connected.
            config: decides the role.
            opening: what is odd about it.

        Raises:
            Halted: it has no good end, by our doing or the other side's.
        """
        self.sock = sock
        self._opening = opening
        self._is_client = isinstance(config, ClientConfig)
        self._engine = Engine(config)
        self._is_early = False
        self.negotiated = self._negotiate()
        made = keys_of(self._engine)
        self._rx, self._rx_secret, self._rx_seq = made.rx, made.rx_secret, made.rx.seq
        if not self._is_early:
            self._tx, self._tx_secret, self._tx_seq = made.tx, made.tx_secret, made.tx.seq
        if opening.behind:
            self.sock.sendall(self.held + self._sealed(opening.behind))

    def _negotiate(self) -> Negotiated:
        flights = 0
        while True:
            flight, negotiated = self._engine.output(), self._engine.result()
            if flight:
                self._fly(flights, flight, is_last=negotiated is not None)
                flights += 1
            if negotiated is not None:
                return negotiated
            try:
                self._take()
            except PeerAlert as exc:
                raise Halted(_name(exc)) from exc

    def _take(self) -> None:
        try:
            received = self.sock.recv(self._engine.need())
        except ConnectionResetError:
            raise Halted("RST") from None
        if not received:
            raise Halted("FIN")
        self._engine.feed(received)

    def _fly(self, number: int, flight: bytes, *, is_last: bool) -> None:
        opening = self._opening
        wire = _fragmented(flight, opening.fragment) if opening.fragment else flight
        if opening.halt is not None and opening.halt.flight == number:
            self._halt(opening.halt, wire)
        if is_last and opening.behind:
            self.held = wire
        elif opening.early and self._has_keys(number):
            self._take_early_keys(split_records(flight)[-1])
            self.sock.sendall(wire + self._sealed(opening.early))
        elif opening.dribbles:
            for byte in wire:
                self.sock.sendall(bytes([byte]))
        else:
            self.sock.sendall(wire)

    def _halt(self, halt: Halt, wire: bytes) -> None:
        self.sock.sendall(wire[: int(len(wire) * halt.keep)] + halt.instead)
        if halt.resets:
            reset(self.sock)
            raise Halted
        if not halt.instead:
            self.sock.shutdown(socket.SHUT_WR)
        while True:
            try:
                record = self.recv_raw()
            except ConnectionResetError:
                raise Halted("RST") from None
            if not record:
                raise Halted("FIN")
            if record[0] == ContentType.alert and len(record) == _ALERT_RECORD:
                raise Halted(AlertDescription(record[-1]).name)
            self._open(record)

    def _open(self, record: bytes) -> None:
        """Search for an alert in what comes under the keys that there are by now."""
        finished = self._engine.keys
        try:
            if finished is None:
                self._engine.feed(record)
            else:
                content_type, payload = open_record(finished.rx, finished.rx.seq, record)
                if content_type == ContentType.alert:
                    raise Halted(AlertDescription(payload[1]).name)
        except PeerAlert as exc:
            raise Halted(_name(exc)) from exc

    def turn_key(self) -> None:
        """Send what comes next with the next generation."""
        suite = self._tx.suite
        self._tx_secret = bytearray(schedule.next_secret(suite, bytes(self._tx_secret)))
        self._tx, self._tx_seq = schedule.traffic_keys(suite, bytes(self._tx_secret)), 0

    def recv(self) -> tuple[int, bytes] | None:
        """Receive and open one record, whatever is in it; None at the end of the stream."""
        record = self.recv_raw()
        if not record:
            return None
        self._rx_seq += 1
        return open_record(self._rx, self._rx_seq - 1, record)

    def _sealed(self, parts: tuple[Part, ...]) -> bytes:
        return b"".join(part.seal(self) for part in parts)

    # -- keys before the end of the handshake

    def _has_keys(self, flight: int) -> bool:
        return flight == (1 if self._is_client else 0)

    def _take_early_keys(self, finished: bytes) -> None:
        connection = self._engine._connection
        assert connection is not None
        suite = CipherSuite.from_openssl(connection.get_cipher_name() or "")
        if suite.version is ProtocolVersion.TLSv1_3:
            self._tx_secret = secrets(self._engine._key_log)[b"SERVER_TRAFFIC_SECRET_0"]
            self._tx = schedule.traffic_keys(suite, bytes(self._tx_secret))
        else:
            randoms = connection.client_random(), connection.server_random()
            block = schedule.key_block(
                suite, connection.master_key() or b"", *(each or b"" for each in randoms)
            )
            self._tx = schedule.tls12_keys(suite, block.client_key, block.client_iv, finished)
        self._tx_seq, self._is_early = self._tx.seq, True


def _name(exc: HandshakeError) -> str:
    return exc.alert.name if exc.alert is not None else "none"


def _fragmented(flight: bytes, size: int) -> bytes:
    """Cut what is not protected yet into smaller records; a protected record cannot be cut."""
    wire, is_protected = b"", False
    for record in split_records(flight):
        if record[0] == ContentType.change_cipher_spec:
            is_protected = True
        if record[0] != ContentType.handshake or is_protected:
            wire += record
            continue
        body = record[HEADER_LENGTH:]
        wire += b"".join(
            encode_record(ContentType.handshake, body[start : start + size])
            for start in range(0, len(body), size)
        )
    return wire
