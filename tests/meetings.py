"""Two engines that meet, and what becomes of their connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.doubles import keys_of
from tlsify.codepoints import ContentType, HandshakeType, ProtocolVersion
from tlsify.tls.engine import Engine
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import split_records
from tlsify.tls.ticket_reader import TicketReader

if TYPE_CHECKING:
    from tlsify.config import ClientConfig, ServerConfig
    from tlsify.keys import Keys, TrafficKeys
    from tlsify.tls.negotiated import Negotiated, Resumable


class Meeting:
    """One connection between two engines, which keeps what the server sent beyond the end."""

    def __init__(
        self, client: Engine | ClientConfig, server: Engine | ServerConfig, *, now: float = 0.0
    ) -> None:
        """Do the handshake."""
        self.client = client if isinstance(client, Engine) else Engine(client)
        self.server = server if isinstance(server, Engine) else Engine(server, now=now)
        self.beyond: list[bytes] = []
        moved = True
        while moved:
            moved = False
            for record in split_records(self.client.output()):
                self.server.feed(record)
                moved = True
            for record in split_records(self.server.output()):
                moved = True
                if self.client.result() is None:
                    self.client.feed(record)
                else:
                    self.beyond.append(record)

    @property
    def ours(self) -> Negotiated:
        """The client's outcome."""
        return result_of(self.client)

    @property
    def theirs(self) -> Negotiated:
        """The server's outcome."""
        return result_of(self.server)

    @property
    def our_keys(self) -> Keys:
        """The client's keys."""
        return keys_of(self.client)

    @property
    def their_keys(self) -> Keys:
        """The server's keys."""
        return keys_of(self.server)

    def session(self) -> Resumable:
        """Return what the client may resume with: the first ticket, as the kernel would open it."""
        found = self.client.resumable()
        if self.ours.version is ProtocolVersion.TLSv1_3:
            _, message = open_record(self.our_keys.rx, 0, self.beyond[0])
            found = TicketReader(self.client).add(message)
        assert found is not None
        return found

    def check_data(self) -> None:
        """Seal and open a record each way, at the numbers that the two sides tell."""
        ours, theirs = self.our_keys, self.their_keys
        rx = ours.rx
        for seq, record in enumerate(self.beyond):
            kind, message = open_record(rx, rx.seq + seq, record)
            assert kind == ContentType.handshake
            assert message[0] == HandshakeType.new_session_ticket
        assert theirs.tx.seq == rx.seq + len(self.beyond)
        assert theirs.rx.seq == ours.tx.seq
        _carry(ours.tx, theirs.rx, ours.tx.seq)
        _carry(theirs.tx, rx, theirs.tx.seq)


def _carry(tx: TrafficKeys, rx: TrafficKeys, seq: int) -> None:
    sealed = seal_record(tx, seq, ContentType.application_data, b"data")
    assert open_record(rx, seq, sealed) == (ContentType.application_data, b"data")


def result_of(engine: Engine) -> Negotiated:
    """Return the outcome of a finished handshake."""
    outcome = engine.result()
    assert outcome is not None
    return outcome
