"""Record protection in userspace with keys from another process's handshake; see `tunnel`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.codepoints import AlertDescription, ContentType, ProtocolVersion
from tlsify.errors import HandshakeError, PeerAlert, PeerMisbehaved
from tlsify.keys import Direction, TrafficKeys, wipe
from tlsify.tls.messages import KeyUpdateRequest, encode_alert, encode_key_update
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import HEADER_LENGTH, MAX_PLAINTEXT, decode_header
from tlsify.tls.session import Fail, InstallKeys, SendRecord, Session, UpdateKeys
from tlsify.tls.wear import worn_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.errors import RekeyUnsupported
    from tlsify.keys import Keys
    from tlsify.tls.negotiated import Negotiated, Resumable
    from tlsify.tls.room import RecordBuffer
    from tlsify.tls.session import Action

# RFC 8446 5.2: content type, padding and tag take this much more than the plaintext at most.
_MAX_TLS_1_3_CIPHERTEXT = MAX_PLAINTEXT + 256


class _Sequence:
    """One direction: the current keys, and the number of the next record."""

    def __init__(self, keys: TrafficKeys) -> None:
        self.keys = TrafficKeys(keys.suite, bytearray(keys.key), bytearray(keys.iv), keys.seq)
        self.next = keys.seq

    def take(self) -> int:
        number = self.next
        self.next += 1
        return number

    def replace(self, keys: TrafficKeys) -> None:
        self.keys.wipe()
        self.keys, self.next = keys, keys.seq


class KeyedTunnel:
    """An established server's connection whose handshake was done in another process.

    It does for a relay what `tunnel.Tunnel` does, whose keys OpenSSL keeps and cannot pass on.

    Attributes:
        is_client: False; clients do their handshakes themselves.
    """

    is_client = False

    def __init__(
        self, negotiated: Negotiated, keys: Keys, clock: Callable[[], float] = float
    ) -> None:
        """Copy the keys, which the caller wipes.

        Args:
            negotiated: the handshake's outcome.
            keys: of that handshake.
            clock: monotonic, in seconds; without one a peer earns no control records by time.
        """
        is_tls13 = negotiated.version is ProtocolVersion.TLSv1_3
        self._session = Session(
            negotiated.suite,
            self.is_client,
            can_rekey=is_tls13,
            tx_secret=bytearray(keys.tx_secret),
            rx_secret=bytearray(keys.rx_secret),
        )
        self._tx, self._rx = _Sequence(keys.tx), _Sequence(keys.rx)
        self._longest = negotiated.longest
        self._output = bytearray()
        self._pending = b""
        self._received = 0
        self._clock = clock

    @property
    def peer_closed(self) -> bool:
        """Whether close_notify has come: an end of stream before that is truncation."""
        return self._session.peer_closed

    @property
    def failure(self) -> HandshakeError | RekeyUnsupported | None:
        """Return the error that ended the connection; ``output_into`` has the alert that is due."""
        return self._session.failure

    @property
    def is_waiting(self) -> bool:
        """Return False: nothing that is sent has to wait for the peer's records."""
        return False

    @property
    def held(self) -> int:
        """Return 0, likewise."""
        return 0

    @property
    def waiting(self) -> int:
        """Return the number of bytes that ``output_into`` would write."""
        return len(self._output)

    def output_into(self, room: RecordBuffer, offset: int = 0) -> int:
        """Write the records that have to be sent into a buffer, as far as it suffices.

        Returns:
            The number of bytes.
        """
        size = min(len(self._output), len(room.view) - offset)
        room.view[offset : offset + size] = self._output[:size]
        del self._output[:size]
        return size

    def send_into(self, plaintext: memoryview, room: RecordBuffer) -> int:
        """Protect plaintext of any length; write the records as ``output_into`` does."""
        for start in range(0, len(plaintext), self._longest):
            if self._session.failure is None:
                self._refresh()
            if self._session.failure is not None:
                break
            piece = bytes(plaintext[start : start + self._longest])
            self._seal(ContentType.application_data, piece)
        return self.output_into(room)

    def _seal(self, content_type: ContentType, payload: bytes) -> None:
        self._output += seal_record(self._tx.keys, self._tx.take(), content_type, payload)

    def _refresh(self) -> None:
        """Change the sending key before it has protected too much (RFC 8446 5.5), or end."""
        limit = self._session.suite.aead.record_limit
        if limit is not None and self._session.can_rekey and self._tx.next >= limit // 2:
            self._update_key(KeyUpdateRequest.update_not_requested)
        elif limit is not None and self._tx.next >= limit - 1:
            self._session.failure = worn_out("relay", f"{self._tx.next} records")
            self._seal(ContentType.alert, encode_alert(AlertDescription.internal_error))

    def _update_key(self, request: KeyUpdateRequest) -> None:
        self._seal(ContentType.handshake, encode_key_update(request))
        self._enter(Direction.TX, self._tx)

    def _enter(self, direction: Direction, sequence: _Sequence) -> None:
        following = self._session.next_generation(direction)
        self._session.enter(direction, following)
        wipe(following.secret)
        sequence.replace(following.keys)

    def receive(self, records: bytes | memoryview, room: RecordBuffer) -> int:
        """Decrypt data from the peer, in pieces of any size.

        Args:
            records: some.
            room: where the plaintext goes, at least `tunnel.ROOM_BEYOND` bytes larger.

        Returns:
            How many bytes of plaintext became available. What is wrong behind them is in
            `failure`: a PeerAlert, or a PeerMisbehaved.
        """
        self._received += len(records)
        stream = self._pending + bytes(records)
        size = position = 0
        try:
            while not self._is_over and (record := self._next(stream, position)):
                position += len(record)
                size += self._open(record, room, size)
        except HandshakeError as error:
            self._fail(error)
        self._pending = b"" if self._is_over else stream[position:]
        return size

    @property
    def _is_over(self) -> bool:
        return self._session.peer_closed or self._session.failure is not None

    def _next(self, stream: bytes, position: int) -> bytes:
        """Return the record at a position; empty if it is not here as a whole.

        Raises:
            PeerMisbehaved: it is none.
        """
        header = stream[position : position + HEADER_LENGTH]
        if len(header) < HEADER_LENGTH:
            return b""
        content_type, length = decode_header(header)
        if self._session.version is ProtocolVersion.TLSv1_3:
            if content_type != ContentType.application_data:  # RFC 8446 5: all of them are by now
                raise PeerMisbehaved(
                    "unprotected record", alert=AlertDescription.unexpected_message
                )
            if length > _MAX_TLS_1_3_CIPHERTEXT:
                raise _too_long(length, _MAX_TLS_1_3_CIPHERTEXT)
        end = position + HEADER_LENGTH + length
        return stream[position:end] if end <= len(stream) else b""

    def _open(self, record: bytes, room: RecordBuffer, offset: int) -> int:
        content_type, payload = open_record(self._rx.keys, self._rx.take(), record)
        if len(payload) > MAX_PLAINTEXT:
            raise _too_long(len(payload), MAX_PLAINTEXT)
        if content_type == ContentType.application_data and payload:
            if self._session.unfinished:  # RFC 8446 5.1
                raise PeerMisbehaved(
                    "data inside a fragmented handshake message",
                    alert=AlertDescription.unexpected_message,
                )
            room.view[offset : offset + len(payload)] = payload
            return len(payload)
        self._session.ration.earn(self._received, self._clock())
        for action in self._session.receive(content_type, payload):
            self._perform(action)
        return 0

    def _perform(self, action: Action) -> None:
        ended = self._session.close_notify_sent  # nothing follows it
        match action:
            case SendRecord() if not ended:
                self._seal(action.content_type, action.payload)
            case InstallKeys():
                self._enter(Direction.RX, self._rx)
            case UpdateKeys() if not ended:
                self._update_key(action.request)
            case Fail():
                self._fail(action.error)
            case _:  # PeerClosed, which the session remembers
                pass

    def _fail(self, error: HandshakeError) -> None:
        self._session.failure = error
        if error.alert is not None and not isinstance(error, PeerAlert):
            self._seal(ContentType.alert, encode_alert(error.alert))

    def drop(self) -> None:
        """Do nothing: there is nothing that waits."""

    def take_sessions(self) -> list[Resumable]:
        """Return nothing: a server keeps no sessions."""
        return []

    def close(self) -> None:
        """Add close_notify, once; a connection that failed has said its alert already."""
        if self._session.failure is None and not self._session.close_notify_sent:
            self._session.close_notify_sent = True
            self._seal(ContentType.alert, encode_alert(AlertDescription.close_notify))

    def release(self) -> None:
        """Overwrite the keys; the last call."""
        self._session.wipe()
        for sequence in (self._tx, self._rx):
            sequence.keys.wipe()


def _too_long(length: int, most: int) -> PeerMisbehaved:
    return PeerMisbehaved(
        f"record of {length} bytes exceeds {most}", alert=AlertDescription.record_overflow
    )
