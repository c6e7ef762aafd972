"""Tests of ticket_reader."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.conftest import HOST
from tests.doubles import EnginePair, keys_of
from tests.meetings import Meeting
from tlsify.codepoints import AlertDescription, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import PeerMisbehaved, TlsifyError
from tlsify.names import ReferenceIdentifier
from tlsify.tls import ticket_reader as module
from tlsify.tls.engine import Engine
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.protection import open_record
from tlsify.tls.ticket_reader import MAX_TICKETS, TicketReader

TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
# Its tickets are held back, where a test can open them before the client sees them.
SERVER = ServerConfig(key_pair=make_key_pair([HOST]), resumption=True)
CLIENT = ClientConfig(
    server_name=HOST,
    identities=(ReferenceIdentifier.for_host(HOST),),
    trust=TrustAnchors(SERVER.key_pair.chain),
    session_store=Path("somewhere"),
)


class Finished:
    """A connection whose client waits for tickets, and the tickets that its server sent."""

    def __init__(self, session: bytes | None = None) -> None:
        """Do the handshake."""
        met = Meeting(Engine(CLIENT, session=session), SERVER)
        self.engine, self.negotiated = met.client, met.ours
        rx = met.our_keys.rx
        self.tickets = [open_record(rx, seq, record)[1] for seq, record in enumerate(met.beyond)]


def ticket(number: int, *, lifetime: int = 7200, size: int = 20, extensions: bytes = b"") -> bytes:
    """Build a NewSessionTicket that no server remembers."""
    identity = number.to_bytes(size, "big")
    body = lifetime.to_bytes(4, "big") + bytes(4) + b"\x01" + bytes([number])
    body += len(identity).to_bytes(2, "big") + identity
    body += len(extensions).to_bytes(2, "big") + extensions
    return b"\x04" + len(body).to_bytes(3, "big") + body


def resumes(session: bytes) -> bool:
    """Return whether the server takes a session."""
    return Finished(session).negotiated.resumed


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tickets_become_sessions(count: int) -> None:
    """Each ticket becomes a session of its own, with which the server resumes."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    keys_of(finished.engine).wipe()  # what the kernel has, nobody else needs any more
    found = [harvest.add(message) for message in finished.tickets[:count]]
    harvest.wipe()
    sessions = {each.session for each in found if each is not None}
    assert len(sessions) == count
    for session in sessions:
        assert resumes(session)


@pytest.mark.parametrize("count", [4, 5])
def test_enough_tickets(count: int) -> None:
    """A connection is worth so many sessions; then keys and connection are let go."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    key = harvest._keys.key
    messages = [*finished.tickets, *(ticket(number) for number in range(2, count))]
    found = [harvest.add(message) for message in messages]
    assert [each is not None for each in found] == [n < MAX_TICKETS for n in range(count)]
    assert harvest._watch is None
    assert not any(key)


def test_resumed_connection() -> None:
    """The session that was resumed is not given again; that of the new ticket is."""
    finished = Finished()
    first = TicketReader(finished.engine).add(finished.tickets[0])
    assert first is not None
    assert not first.resumed
    again = Finished(first.session)
    (message,) = again.tickets
    second = TicketReader(again.engine).add(message)
    assert second is not None
    assert second.resumed
    assert second.session != first.session
    assert resumes(second.session)


def test_tickets_after_key_updates() -> None:
    """A KeyUpdate never gets here: whatever generation the kernel is at, this one is at the first.

    Nor is the kernel's count of records of any interest.
    """
    finished = Finished()
    harvest = TicketReader(finished.engine)
    for request in KeyUpdateRequest:
        with pytest.raises(PeerMisbehaved) as caught:
            harvest.add(encode_key_update(request))
        assert caught.value.alert is AlertDescription.unexpected_message
    found = [harvest.add(message) for message in finished.tickets]
    assert [each is not None and resumes(each.session) for each in found] == [True, True]


def test_ticket_longer_than_a_record() -> None:
    """A message that the kernel delivered in several records is sealed in several again."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    assert harvest.add(ticket(1, size=40_000))
    found = harvest.add(finished.tickets[0])
    assert found is not None
    assert resumes(found.session)


def test_ticket_to_discard() -> None:
    """Lifetime 0 says that a ticket is to be discarded; the next one counts."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    assert harvest.add(ticket(1, lifetime=0)) is None
    assert harvest.add(finished.tickets[0]) is not None


def test_lifetime_of_too_long() -> None:
    """A server's longer lifetime is cut to seven days."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    usual, long = harvest.add(finished.tickets[0]), harvest.add(ticket(1, lifetime=2**31))
    assert usual is not None
    assert long is not None
    end = SERVER.key_pair.chain[0].not_valid_after_utc.timestamp()
    assert 0 <= long.expires - min(usual.expires - 7200 + 604800, end) < 60


def test_ticket_that_openssl_refuses() -> None:
    """A ticket with extensions that make no sense ends the harvest, not the connection."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    connection = harvest._watch and harvest._watch.connection
    assert connection
    assert harvest.add(ticket(1, extensions=b"\x00\x2a\x00\x09")) is None
    assert harvest.add(finished.tickets[0]) is None
    assert harvest._watch is None


def test_nothing_is_emitted() -> None:
    """A client has nothing to say to a ticket."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    assert harvest._watch
    connection = harvest._watch.connection
    for message in finished.tickets:
        harvest.add(message)
    with pytest.raises(SSL.WantReadError):
        connection.bio_read(1)


@given(st.binary(max_size=60), st.integers(0, 250))
def test_damaged_ticket(noise: bytes, position: int) -> None:
    """Whatever a peer sends for a ticket, it is none or PeerMisbehaved."""
    good = _SHARED.tickets[0]
    for damaged in (noise, good[:position] + noise + good[position + 1 :]):
        if damaged == good:
            continue
        try:
            _HARVEST.add(damaged)
        except PeerMisbehaved as error:
            assert error.alert is not None


_SHARED = Finished()
_HARVEST = TicketReader(_SHARED.engine)


def test_data_for_a_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should OpenSSL ever take a ticket for data, that is the end of it."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    assert harvest._watch
    monkeypatch.setattr(harvest._watch.connection, "recv", lambda _: b"x")
    assert harvest.add(finished.tickets[0]) is None
    assert harvest._watch is None


def test_library_without_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenSSL's functions are missing there is no resumption, and nothing is kept."""
    monkeypatch.setattr(module, "dump_session", lambda _: None)
    finished = Finished()
    harvest = TicketReader(finished.engine)
    assert harvest.add(finished.tickets[0]) is None
    assert harvest._watch is None


def test_wiping_lets_go() -> None:
    """Once wiped, keys and connection are gone; wiping again does no harm."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    assert harvest._watch
    gone = weakref.ref(harvest._watch.connection)
    harvest.wipe()
    harvest.wipe()
    gc.collect()
    assert gone() is None
    assert not any(harvest._keys.key)
    assert harvest.add(finished.tickets[0]) is None


def test_own_keys() -> None:
    """Wiping the harvest leaves the keys alone that the kernel is yet to get, and back."""
    finished = Finished()
    harvest = TicketReader(finished.engine)
    harvest.wipe()
    assert any(keys_of(finished.engine).rx.key)


def test_wrong_kind_of_engine() -> None:
    """Only a TLS 1.3 client has tickets to come, and only after its handshake."""
    with pytest.raises(TlsifyError, match="not finished"):
        TicketReader(Engine(CLIENT))
    pair = EnginePair(CLIENT, SERVER)
    pair.server.output()
    old = EnginePair(replace(CLIENT, versions=frozenset({TLS12})), SERVER)
    old.run()
    with pytest.raises(TlsifyError, match=r"TLS 1\.3 client"):
        TicketReader(old.client)
