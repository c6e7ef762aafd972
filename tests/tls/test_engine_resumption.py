"""Tests of engine: what is resumed, and that its keys and sequence numbers are right."""

from __future__ import annotations

import datetime as dt
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.conftest import HOST
from tests.doubles import context_for, keys_of
from tests.meetings import Meeting
from tlsify.codepoints import Aead, CipherSuite, ContentType, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import IdentityError
from tlsify.names import ReferenceIdentifier
from tlsify.tls import context
from tlsify.tls.engine import Engine
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from tlsify.credentials.anchors import TrustAnchors

TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
SUITES: list[CipherSuite] = list(CipherSuite)
IDENTITIES = (ReferenceIdentifier.for_host(HOST),)
STORE = Path("somewhere")  # never touched: the engine has no files
Configs = tuple[ClientConfig, ServerConfig]


@pytest.fixture(scope="module")
def key_pairs(authority: trustme.CA) -> dict[str, KeyPair]:
    """A certificate for each kind of signature that TLS 1.2 suites name."""
    found = {}
    for kind in ("ECDSA", "RSA"):
        leaf = authority.issue_cert(HOST, key_type=trustme.KeyType[kind])
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        found[kind] = KeyPair.from_pem(chain, leaf.private_key_pem.bytes())
    return found


def make_configs(trust: TrustAnchors, key_pairs: dict[str, KeyPair], suite: CipherSuite) -> Configs:
    """Make configurations that leave one suite, and want sessions on both sides."""
    versions, aeads = frozenset({suite.version}), (suite.aead,)
    client = ClientConfig(
        server_name=HOST,
        identities=IDENTITIES,
        trust=trust,
        versions=versions,
        aeads=aeads,
        session_store=STORE,
    )
    kind = "RSA" if "_RSA_" in suite.name else "ECDSA"
    server = ServerConfig(key_pair=key_pairs[kind], versions=versions, aeads=aeads, resumption=True)
    return client, server


@pytest.fixture
def configs(
    request: pytest.FixtureRequest, trust: TrustAnchors, key_pairs: dict[str, KeyPair]
) -> Configs:
    """Configurations for one suite."""
    return make_configs(trust, key_pairs, request.param)


@pytest.fixture(params=[SUITES[0], SUITES[4]], ids=["TLSv1.3", "TLSv1.2"])
def both(
    request: pytest.FixtureRequest, trust: TrustAnchors, key_pairs: dict[str, KeyPair]
) -> Configs:
    """Configurations for one suite of either version."""
    return make_configs(trust, key_pairs, request.param)


each_suite = pytest.mark.parametrize("configs", SUITES, indirect=True, ids=lambda s: s.name)


def _feed(engine: Engine, records: bytes) -> None:
    for record in split_records(records):
        engine.feed(record)


def resume(configs: Configs, session: bytes, *, now: float = 0.0) -> Meeting:
    """Connect again with a session."""
    return Meeting(Engine(configs[0], session=session), configs[1], now=now)


# -- every suite


@each_suite
def test_resumption(configs: Configs) -> None:
    """The second connection resumes the first, and its keys carry data both ways."""
    first = Meeting(*configs)
    is_tls13 = first.ours.version is TLS13
    assert (first.ours.resumed, first.theirs.resumed) == (False, False)
    assert len(first.beyond) == (2 if is_tls13 else 0)
    first.check_data()
    second = resume(configs, first.session().session)
    assert (second.ours.resumed, second.theirs.resumed) == (True, True)
    assert second.ours.suite is second.theirs.suite is first.ours.suite
    assert len(second.beyond) == (1 if is_tls13 else 0)
    second.check_data()
    assert second.ours.peer_certificate == configs[1].key_pair.chain[0]
    assert second.our_keys.tx.key != first.our_keys.tx.key


@each_suite
def test_resumed_keys_are_openssls(configs: Configs) -> None:
    """What is sealed with the keys of a resumed handshake, OpenSSL itself opens, and back."""
    meeting = resume(configs, Meeting(*configs).session().session)
    ours, theirs = meeting.client.take_connection(), meeting.server.take_connection()
    keys = meeting.our_keys.tx, meeting.their_keys.tx
    for connection in (ours, theirs):
        connection.set_app_data(meeting.client)
    for record in meeting.beyond:
        ours.bio_write(record)
    theirs.bio_write(seal_record(keys[0], keys[0].seq, ContentType.application_data, b"up"))
    ours.bio_write(seal_record(keys[1], keys[1].seq, ContentType.application_data, b"down"))
    assert (theirs.recv(10), ours.recv(10)) == (b"up", b"down")
    ours.send(b"next")
    sealed = ours.bio_read(1000)
    assert open_record(meeting.their_keys.rx, meeting.their_keys.rx.seq, sealed)[1] == b"next"


@each_suite
def test_explicit_nonce_of_an_abbreviated_handshake(configs: Configs) -> None:
    """In TLS 1.2 the server's Finished comes first here; each side counts on from its own."""
    if configs[0].versions == {TLS13} or configs[0].aeads == (Aead.CHACHA20_POLY1305,):
        return
    session = Meeting(*configs).session().session
    client, server = Engine(configs[0], session=session), Engine(configs[1])
    for record in split_records(client.output()):
        server.feed(record)
    flight = split_records(server.output())
    for record in flight:
        client.feed(record)
    answer = split_records(client.output())
    for record in answer:
        server.feed(record)
    for engine, finished in ((server, flight[-1]), (client, answer[-1])):
        used = int.from_bytes(finished[5:13], "big")
        assert int.from_bytes(keys_of(engine).tx.iv[4:], "big") == (used + 1) % 2**64


def test_chain_of_resumptions(both: Configs) -> None:
    """What a resumed connection brings can be resumed in turn, and says that it was resumed."""
    meeting = Meeting(*both)
    found = meeting.session()
    assert not found.resumed
    for _ in range(3):
        meeting = resume(both, found.session)
        assert meeting.ours.resumed
        found = meeting.session()
        assert found.resumed


def test_fresh_key_exchange(both: Configs) -> None:
    """A resumed TLS 1.3 handshake has its own key exchange; neither side allows less."""
    session = Meeting(*both).session().session
    if both[0].versions == {TLS13}:
        assert resume(both, session).ours.group
    allow_no_dhe_kex = 1 << 10
    for config in both:
        options = context_for(replace(config), config.aeads).set_options(0)
        assert not options & allow_no_dhe_kex


def test_expiry(both: Configs) -> None:
    """A session is of use for as long as the server said, from when it came."""
    found = Meeting(*both).session()
    assert abs(found.expires - time.time() - context.TICKET_LIFETIME) < 60


def test_expiry_of_the_certificate(
    both: Configs, authority: trustme.CA, key_pairs: dict[str, KeyPair]
) -> None:
    """No session outlives the certificate that it stands for."""
    end = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(minutes=5)
    leaf = authority.issue_cert(HOST, not_after=end, key_type=trustme.KeyType.ECDSA)
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    short = KeyPair.from_pem(chain, leaf.private_key_pem.bytes())
    assert key_pairs
    server = replace(both[1], key_pair=short)
    assert Meeting(both[0], server).session().expires == end.timestamp()


# -- who wants it


def test_nothing_without_being_asked(both: Configs) -> None:
    """By default no session is given, the server's tickets stay inside, and TX starts at 0."""
    client, server = replace(both[0], session_store=None), replace(both[1], resumption=False)
    meeting = Meeting(client, server)
    assert meeting.client.resumable() is None
    assert not meeting.client.wants_sessions
    assert not meeting.server.wants_sessions
    assert meeting.beyond == []
    assert meeting.their_keys.tx.seq == (0 if meeting.ours.version is TLS13 else 1)
    assert bool(meeting.server.take_tickets()) is (meeting.ours.version is TLS13)


def test_tickets_sent_are_not_held(both: Configs) -> None:
    """Tickets that are on the wire are not there to be sent once more."""
    meeting = Meeting(*both)
    assert meeting.server.take_tickets() == b""
    assert meeting.server.resumable() is None


def test_server_that_gives_no_ticket(both: Configs) -> None:
    """A TLS 1.2 session without a ticket is none to keep."""
    meeting = Meeting(both[0], replace(both[1], resumption=False))
    assert meeting.client.resumable() is None
    assert meeting.client.wants_sessions


def test_resumable_too_early(both: Configs) -> None:
    """There is nothing to resume before the end of a handshake, or after the engine's."""
    assert Engine(both[0]).resumable() is None
    meeting = Meeting(*both)
    meeting.client.release()
    assert meeting.client.resumable() is None


# -- sessions that do not fit


def test_another_server(both: Configs) -> None:
    """A ticket that the server cannot open leads to a full handshake."""
    session = Meeting(*both).session().session
    meeting = resume((both[0], replace(both[1])), session)
    assert (meeting.ours.resumed, meeting.theirs.resumed) == (False, False)
    meeting.check_data()


def test_server_that_does_not_resume(both: Configs) -> None:
    """A server that gives no tickets takes none."""
    session = Meeting(*both).session().session
    meeting = resume((both[0], replace(both[1], resumption=False)), session)
    assert not meeting.ours.resumed
    meeting.check_data()


def test_client_made_anew(both: Configs) -> None:
    """A session is not bound to the Context that it came of: it may be out of a file."""
    session = Meeting(*both).session().session
    assert resume((replace(both[0]), both[1]), session).ours.resumed


@pytest.mark.parametrize("session", [b"", b"rubbish", b"\x30\x03\x02\x01\x01", bytes(1000)])
def test_session_that_openssl_refuses(both: Configs, session: bytes) -> None:
    """Rubbish for a session leads to a full handshake, and leaves no error behind."""
    meeting = resume(both, session)
    assert not meeting.ours.resumed
    meeting.check_data()


def test_truncated_session(both: Configs) -> None:
    """Part of a session is none."""
    session = Meeting(*both).session().session
    for end in (1, len(session) // 2, len(session) - 1):
        assert not resume(both, session[:end]).ours.resumed


def test_session_of_the_other_version(trust: TrustAnchors, key_pairs: dict[str, KeyPair]) -> None:
    """A session of a version that is not offered any more leads to a full handshake."""
    old = make_configs(trust, key_pairs, SUITES[4])
    new = make_configs(trust, key_pairs, SUITES[0])
    for source, target in ((old, new), (new, old)):
        meeting = resume(target, Meeting(*source).session().session)
        assert not meeting.ours.resumed
        meeting.check_data()


def test_session_of_somebody_else(both: Configs, authority: trustme.CA) -> None:
    """A session mixed up does not pass for the peer that is wanted, which gets no Finished."""
    leaf = authority.issue_cert("other.example", key_type=trustme.KeyType.ECDSA)
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    other = replace(both[1], key_pair=KeyPair.from_pem(chain, leaf.private_key_pem.bytes()))
    theirs = replace(both[0], identities=(ReferenceIdentifier.for_host("other.example"),))
    session = Meeting(theirs, other).session().session
    client, server = Engine(both[0], session=session), Engine(other)
    _feed(server, client.output())
    with pytest.raises(IdentityError, match=f"not dns:{HOST}") as caught:
        _feed(client, server.output())
    assert caught.value.alert is None
    assert client.output() == b""
    unverified = replace(theirs, verify=False, identities=IDENTITIES)
    assert resume((unverified, other), session).ours.resumed


def test_session_without_a_certificate(both: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that names nobody is refused where somebody is wanted."""
    session = Meeting(*both).session().session
    client, server = Engine(both[0], session=session), Engine(both[1])
    connection = client._connection
    assert connection is not None
    monkeypatch.setattr(connection, "get_peer_certificate", lambda **_: None)
    _feed(server, client.output())
    with pytest.raises(IdentityError, match="no certificate"):
        _feed(client, server.output())


def test_library_that_cannot_load(both: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenSSL's functions nothing is resumed, and nothing is amiss."""
    session = Meeting(*both).session().session
    monkeypatch.setattr("tlsify.tls.engine.load_session", lambda *_: False)
    monkeypatch.setattr("tlsify.tls.engine.dump_session", lambda *_: None)
    meeting = resume(both, session)
    assert not meeting.ours.resumed
    assert meeting.client.resumable() is None


# -- ticket keys


def test_next_period(both: Configs) -> None:
    """A ticket of an earlier period leads to a full handshake."""
    session = Meeting(*both).session().session
    assert resume(both, session, now=context.PERIOD - 1).ours.resumed
    later = resume(both, session, now=context.PERIOD)
    assert not later.ours.resumed
    later.check_data()
    again = resume(both, later.session().session, now=context.PERIOD + 1)
    assert again.ours.resumed


def _resumes_in_a_child(configs: Configs, session: bytes, now: float) -> bool:
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = int(resume(configs, session, now=now).ours.resumed)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, 1}
    return code == 1


def test_forked_workers_share_the_ring(both: Configs) -> None:
    """What one worker seals the next one opens, in every period of the ring and not beyond."""
    config = both[1]
    context.prepare(config, config.aeads, 0.0)
    last, beyond = (context.RING - 1) * context.PERIOD, context.RING * context.PERIOD
    for now in (0, context.PERIOD, last):
        session = Meeting(both[0], config, now=now).session().session
        assert _resumes_in_a_child(both, session, now)
        assert not _resumes_in_a_child(both, session, now + context.PERIOD)
    session = Meeting(both[0], config, now=beyond).session().session
    assert _resumes_in_a_child(both, session, beyond)  # made before the fork, by its first use
    config = replace(config)
    context.prepare(config, config.aeads, 0.0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, Meeting(both[0], config, now=beyond).session().session)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        session = pipe.read()
    assert not resume((both[0], config), session, now=beyond).ours.resumed
