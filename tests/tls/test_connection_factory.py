"""Tests of connection_factory: SNI, kinds of key, OCSP, groups, and tickets, between engines."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from tests.certificates import DAY, KEYS, certify, respond, self_signed
from tests.conftest import make_crl
from tests.doubles import VERSIONS, EnginePair, context_for, emitted, opened
from tests.meetings import Meeting
from tlsify.codepoints import (
    DEFAULT_AEADS,
    AlertDescription,
    ContentType,
    NamedGroup,
    ProtocolVersion,
)
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.parse import parse_certificates, parse_crls
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError, HandshakeError, IdentityError, PeerAlert
from tlsify.names import ReferenceIdentifier
from tlsify.tls import connection_factory, context, openssl
from tlsify.tls.engine import Engine
from tlsify.tls.record import split_records
from tlsify.tls.tunnel import Tunnel

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.credentials.key_pair import KeyPair
    from tlsify.tls.negotiated import Negotiated

AUTHORITY = trustme.CA()
MIDDLE, OTHER_MIDDLE = AUTHORITY.create_child_ca(), AUTHORITY.create_child_ca()
TRUST = TrustAnchors(parse_certificates(AUTHORITY.cert_pem.bytes(), "the test authority"))
DEFAULT = certify(AUTHORITY, "default.example")
A_EC = certify(MIDDLE, "a.example", "c.example")
A_RSA = certify(OTHER_MIDDLE, "a.example", "c.example", kind="rsa")
B = certify(AUTHORITY, "b.example", kind="ed25519")
CLIENT = certify(AUTHORITY, "client.example")
SERVER = ServerConfig(key_pair=DEFAULT, more_key_pairs=(A_EC, A_RSA, B))
TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3


def client(name: str | None, version: ProtocolVersion = TLS13, **wishes: Any) -> ClientConfig:
    """A client of one name and version."""
    identity = ReferenceIdentifier.for_host(name or "default.example")
    return ClientConfig(
        server_name=name,
        identities=(identity,),
        trust=TRUST,
        versions=frozenset({version}),
        **wishes,
    )


def leaf(outcome: Negotiated) -> object:
    """Return what the peer has shown."""
    return outcome.peer_certificate


# -- names


@pytest.mark.parametrize("version", VERSIONS)
def test_each_name_has_its_certificate(version: ProtocolVersion) -> None:
    """The certificate is that of the name asked for; the keys are right in any case."""
    for name, shown in (("a.example", A_EC), ("b.example", B), (None, DEFAULT)):
        met = Meeting(client(name, version), SERVER)
        assert leaf(met.ours) == shown.chain[0]
        assert met.theirs.server_name == name
        met.check_data()


@pytest.mark.parametrize("version", VERSIONS)
def test_unknown_name(version: ProtocolVersion) -> None:
    """Who asks for somebody else gets the default, and judges by himself."""
    with pytest.raises(IdentityError, match=r"default\.example"):
        EnginePair(client("elsewhere.example", version), SERVER).run()
    unsure = replace(client("elsewhere.example", version), verify=False)
    assert leaf(EnginePair(unsure, SERVER).run()[0]) == DEFAULT.chain[0]


def test_idna() -> None:
    """A name in another script is asked for, and found, as A-labels."""
    pair = certify(AUTHORITY, "xn--exmple-cua.test")
    ours, theirs = EnginePair(
        replace(client("exämple.test"), verify=False), replace(SERVER, more_key_pairs=(pair,))
    ).run()
    assert leaf(ours) == pair.chain[0]
    assert theirs.server_name == "xn--exmple-cua.test"


def test_name_in_the_relay() -> None:
    """A connection that OpenSSL keeps lives on with all its callbacks, whoever goes away."""
    server = replace(SERVER, resumption=True)
    met = Meeting(client("a.example"), server)
    ours, theirs = Tunnel(met.client), Tunnel(met.server)
    assert opened(ours, b"".join(met.beyond)) == b""
    del met
    context.drop_past_keys(9 * context.PERIOD)
    context._made.pop(server)
    gc.collect()
    theirs.send(b"hello")
    assert opened(ours, emitted(theirs)) == b"hello"
    ours.close()
    assert opened(theirs, emitted(ours)) == b""
    assert theirs.peer_closed


@pytest.mark.parametrize("version", VERSIONS)
def test_alpn_and_key_log(version: ProtocolVersion, tmp_path: Path) -> None:
    """What else a configuration says holds for every name."""
    server = replace(SERVER, alpn=(b"h2", b"x"), key_log=tmp_path / "log")
    for name in ("a.example", "b.example", None):
        pair = EnginePair(client(name, version, alpn=(b"x",)), server)
        ours, theirs = pair.run()
        assert ours.alpn == theirs.alpn == b"x"
        assert b"CLIENT_" in pair.server.take_key_log()


def test_alert_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert is heard of on a connection that was moved to another Context."""
    pair = EnginePair(client("a.example"), SERVER)
    heard: list[int] = []
    monkeypatch.setattr(pair.server, "on_alert", lambda **alert: heard.append(alert["description"]))
    distrusting = replace(client("a.example"), trust=TrustAnchors((DEFAULT.chain[0],)))
    pair.client = Engine(distrusting)
    with pytest.raises(HandshakeError):
        pair.run()
    *before, alert = split_records(pair.client.output())
    for record in before:
        pair.server.feed(record)
    with pytest.raises(HandshakeError):
        pair.server.feed(alert)
    assert heard == [AlertDescription.unknown_ca]


# -- kinds of key


def _verifying(kind: str, version: ProtocolVersion) -> Engine:
    """A client that can verify the signatures of one kind of key only."""
    config = client("a.example", version)
    algorithms = {"ec": b"ECDSA+SHA256", "rsa": b"rsa_pss_rsae_sha256:RSA+SHA256"}[kind]
    made = context_for(config, config.aeads)
    assert openssl._lib.SSL_CTX_set1_sigalgs_list(made._context, algorithms) == 1
    return Engine(config)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("kind", "shown"), [("ec", A_EC), ("rsa", A_RSA)])
def test_kind_that_the_client_can_verify(
    version: ProtocolVersion, kind: str, shown: KeyPair
) -> None:
    """With both for a name OpenSSL shows what the client takes, and its own chain with it."""
    pair = EnginePair(client("a.example", version), SERVER)
    pair.client = _verifying(kind, version)
    ours, _ = pair.run()
    assert leaf(ours) == shown.chain[0]
    connection = pair.client.take_connection()
    chain = connection.get_peer_cert_chain(as_cryptography=True)
    assert chain == list(shown.chain)


def test_all_kinds_for_one_name() -> None:
    """EC, RSA and Ed25519 have room beside each other."""
    pairs = tuple(certify(AUTHORITY, "a.example", kind=kind) for kind in KEYS)
    server = ServerConfig(key_pair=pairs[0], more_key_pairs=pairs[1:])
    ours, _ = EnginePair(client("a.example"), server).run()
    assert leaf(ours) in [pair.chain[0] for pair in pairs]


def test_bad_certificate_among_many(client_config: ClientConfig) -> None:
    """One that OpenSSL refuses shows before any client does, whatever its name."""
    weak = self_signed(rsa.generate_private_key(65537, 1024))  # to be refused
    server = replace(SERVER, more_key_pairs=(A_EC, weak))
    with pytest.raises(ConfigError, match="OpenSSL refuses"):
        Engine(server)
    assert EnginePair(client_config, ServerConfig(key_pair=DEFAULT))


def test_contexts_are_made_when_needed() -> None:
    """A thousand certificates cost no Context each until somebody asks; then it is kept."""
    pairs = tuple(certify(AUTHORITY, f"{i}.example") for i in range(1000))
    server = ServerConfig(key_pair=DEFAULT, more_key_pairs=pairs)
    connection_factory.prepare(server, DEFAULT_AEADS, 0.0)
    idle = context.contexts_of(server).shown._idle
    assert len(idle) == 1
    for _ in range(2):
        for i in (7, 999):
            ours, _ = EnginePair(client(f"{i}.example"), server).run()
            assert leaf(ours) == pairs[i].chain[0]
    assert len(idle) == 3
    assert all(len(contexts) == 1 for contexts in idle.values())


def test_gone_with_the_configuration() -> None:
    """Nothing outlives a configuration that nobody uses any more."""
    server = replace(SERVER, resumption=True)
    Meeting(client("a.example"), server)
    gone = weakref.ref(server)
    del server
    gc.collect()
    assert gone() is None


# -- OCSP


class Asked(NamedTuple):
    """An OCSP response that a client received."""

    response: bytes
    outcome: Negotiated


def ask(server: ServerConfig, name: str, version: ProtocolVersion = TLS13) -> Asked:
    """Connect with a request for a response."""
    config = client(name, version)
    heard: list[bytes] = []

    def hear(_: SSL.Connection, response: bytes, __: object) -> bool:
        heard.append(response)
        return True

    made = context_for(config, config.aeads)
    made.set_ocsp_client_callback(hear)
    pair = EnginePair(config, server)
    pair.client = engine = Engine.__new__(Engine)
    original = SSL.Connection.set_connect_state

    def requesting(connection: SSL.Connection) -> None:
        connection.request_ocsp()
        original(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SSL.Connection, "set_connect_state", requesting)
        engine.__init__(config)  # type: ignore[misc]  # so that EnginePair has it
    outcome, _ = pair.run()
    return Asked(heard[0], outcome)


@pytest.mark.parametrize("version", VERSIONS)
def test_staple(version: ProtocolVersion) -> None:
    """Each certificate has its own response, of two kinds of key as well; others have none."""
    kinds = [
        replace(A_EC, ocsp=respond(MIDDLE, A_EC)),
        replace(A_RSA, ocsp=respond(OTHER_MIDDLE, A_RSA)),
    ]
    server = replace(SERVER, more_key_pairs=(*kinds, B))
    asked = ask(server, "a.example", version)
    assert {pair.chain[0]: pair.ocsp for pair in kinds}[leaf(asked.outcome)] == asked.response  # type: ignore[index]  # a certificate
    assert ask(server, "b.example", version).response == b""
    rsa_only = replace(SERVER, more_key_pairs=(kinds[1],))
    assert ask(rsa_only, "a.example", version).response == kinds[1].ocsp


@pytest.mark.parametrize("version", VERSIONS)
def test_stale_response_is_not_stapled(version: ProtocolVersion) -> None:
    """With one past its time, about another, or none at all, the handshake does without."""
    stale = respond(AUTHORITY, B, begin=-2 * DAY, end=-DAY)
    for der in (stale, respond(AUTHORITY, DEFAULT), b"rubbish"):
        server = replace(SERVER, more_key_pairs=(replace(B, ocsp=der),))
        assert ask(server, "b.example", version).response == b""


def test_nobody_asks() -> None:
    """A client that does not ask is sent none."""
    server = replace(SERVER, more_key_pairs=(replace(B, ocsp=respond(AUTHORITY, B)),))
    assert leaf(EnginePair(client("b.example"), server).run()[0]) == B.chain[0]


# -- groups


def test_default_group() -> None:
    """Nothing said, the hybrid is the first, and this OpenSSL has it."""
    ours, theirs = EnginePair(client("a.example"), SERVER).run()
    assert ours.group == theirs.group == "X25519MLKEM768"


@pytest.mark.parametrize("group", NamedGroup)
def test_each_group(group: NamedGroup) -> None:
    """Whatever can be named can be negotiated; the name is told."""
    config = client("a.example", groups=("x25519", group.name))
    met = Meeting(config, replace(SERVER, groups=(group.name,)))
    assert met.ours.group.lower() == met.theirs.group.lower() == group.name.lower()
    met.check_data()


@pytest.mark.parametrize("resumption", [False, True])
def test_hello_retry_request(*, resumption: bool) -> None:
    """A group that the client offers no share of takes another round; the keys are right then."""
    server = Engine(replace(SERVER, groups=("P-384",), resumption=resumption))
    ours = Engine(client("a.example"))
    for record in split_records(ours.output()):
        server.feed(record)
    retry = split_records(server.output())
    kinds = [record[0] for record in retry]
    assert kinds == [ContentType.handshake, ContentType.change_cipher_spec]
    for record in retry:
        ours.feed(record)
    assert server.result() is None
    met = Meeting(ours, server)
    assert met.ours.group == met.theirs.group == "secp384r1"
    assert leaf(met.ours) in {A_EC.chain[0], A_RSA.chain[0]}
    assert met.their_keys.tx.seq == (2 if resumption else 0)
    assert met.their_keys.rx.seq == met.our_keys.tx.seq == 0
    met.check_data()


def test_no_group_in_common() -> None:
    """Both ends say so."""
    pair = EnginePair(client("a.example", groups=("x448",)), replace(SERVER, groups=("x25519",)))
    with pytest.raises(HandshakeError):
        pair.run()
    with pytest.raises(PeerAlert):
        pair.client.feed(split_records(pair.server.output())[0])


def test_groups_of_tls12() -> None:
    """The older version has the same groups, apart from the hybrids."""
    server = replace(SERVER, groups=("X25519MLKEM768", "P-384"))
    ours, _ = EnginePair(client("b.example", TLS12, groups=("P-384", "x25519")), server).run()
    assert ours.version is TLS12


def test_library_without_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenSSL lacks is an error that names what it has."""
    monkeypatch.setattr(context, "set_groups", lambda _, names: names == ["x25519"])
    with pytest.raises(ConfigError, match="cannot use the groups secp384r1") as caught:
        Engine(replace(SERVER, groups=("P-384",)))
    assert caught.value.hint == "it can use x25519"


# -- tickets


class Visit(NamedTuple):
    """One connection."""

    resumed: bool
    session: bytes


def visit(config: ClientConfig, server: ServerConfig, session: bytes | None = None) -> Visit:
    """Connect, with an earlier connection's session if there is one."""
    meeting = Meeting(Engine(config, session=session), server)
    found = meeting.session()
    meeting.check_data()
    assert meeting.ours.resumed is meeting.theirs.resumed
    return Visit(meeting.ours.resumed, found.session)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> ProtocolVersion:
    """Both."""
    found: ProtocolVersion = request.param
    return found


@pytest.fixture
def storing(tmp_path: Path) -> Path:
    """Where clients that want tickets would keep them."""
    return tmp_path


RESUMING = replace(SERVER, resumption=True)


def test_resumed_under_the_same_name(version: ProtocolVersion, storing: Path) -> None:
    """A ticket is good for the name that it was given under, and for a server without one."""
    for name in ("a.example", "b.example", None):
        config = client(name, version, session_store=storing)
        first = visit(config, RESUMING)
        assert not first.resumed
        assert visit(config, RESUMING, first.session).resumed


def test_not_resumed_under_another_name(version: ProtocolVersion, storing: Path) -> None:
    """Be it of another certificate or of the same one (RFC 6066 3)."""
    first = visit(client("a.example", version, session_store=storing), RESUMING)
    for name in ("b.example", "c.example", None):
        config = replace(client(name, version, session_store=storing), verify=False)
        assert not visit(config, RESUMING, first.session).resumed


def test_certificate_renewed(version: ProtocolVersion, storing: Path) -> None:
    """Tickets stay good across a reload that changes certificates, responses or ALPN."""
    before = replace(SERVER, resumption=True)
    context.prepare(before, before.aeads, 0.0)
    config = client("a.example", version, session_store=storing)
    first = visit(config, before)
    renewed = certify(AUTHORITY, "a.example")
    after = replace(before, more_key_pairs=(renewed,), alpn=(b"x",))
    assert not visit(config, replace(after), first.session).resumed
    assert context.succeed(before, after)
    assert visit(config, after, first.session).resumed
    second = visit(config, after)
    last = replace(after, key_pair=renewed)
    assert context.succeed(after, last)
    del before, after
    gc.collect()
    assert visit(config, last, first.session).resumed
    assert visit(config, last, second.session).resumed


def test_name_given_up(version: ProtocolVersion, storing: Path) -> None:
    """A server that has no certificate for a name any more does not resume under it."""
    config = client("b.example", version, session_store=storing)
    first = visit(config, RESUMING)
    after = replace(RESUMING, more_key_pairs=(A_EC,))
    assert context.succeed(RESUMING, after)
    assert not visit(replace(config, verify=False), after, first.session).resumed


@pytest.mark.parametrize(
    "change",
    [
        {"groups": ("x25519",)},
        {"versions": frozenset({TLS13})},
        {"resumption": False},
        {"client_trust": TRUST},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_succession(change: dict[str, Any]) -> None:
    """Where more than that has changed new keys are made."""
    assert not context.succeed(RESUMING, replace(RESUMING, **change))
    assert not context.succeed(SERVER, RESUMING)


def test_ring_is_inherited() -> None:
    """All periods' keys come along, and none that is over comes back."""
    before, after = replace(RESUMING), replace(RESUMING)
    context.prepare(before, DEFAULT_AEADS, 0.0)
    assert context.succeed(before, after)
    context.prepare(after, DEFAULT_AEADS, 3 * context.PERIOD)
    later = context_for(after, DEFAULT_AEADS, 5 * context.PERIOD)
    assert later is context_for(before, DEFAULT_AEADS, 5 * context.PERIOD)
    assert (DEFAULT_AEADS, 0) not in context._made[after]


# -- clients' certificates


ASKING = replace(RESUMING, client_trust=TRUST, client_required=True)


def test_clients_under_every_name(version: ProtocolVersion) -> None:
    """They are asked for a certificate, and judged by it, whatever they ask for."""
    for name in ("a.example", "b.example", None):
        config = client(name, version, key_pair=CLIENT)
        assert leaf(Meeting(config, ASKING).theirs) == CLIENT.chain[0]
        with pytest.raises(HandshakeError):
            Meeting(client(name, version), ASKING)
        with pytest.raises(IdentityError):
            Meeting(replace(config, key_pair=make_key_pair(["client.example"])), ASKING)


def test_revoked_client_does_not_resume(version: ProtocolVersion, storing: Path) -> None:
    """Once a list has changed, tickets that were given before it are not taken."""
    config = client("a.example", version, session_store=storing, key_pair=CLIENT)
    clean = replace(ASKING, crls=parse_crls(make_crl(AUTHORITY), "it"))
    first = visit(config, clean)
    assert visit(config, clean, first.session).resumed
    same = replace(clean)
    assert context.succeed(clean, same)
    assert visit(config, same, first.session).resumed
    revoking = replace(clean, crls=parse_crls(make_crl(AUTHORITY, CLIENT), "it"))
    assert context.succeed(clean, revoking)
    with pytest.raises(IdentityError, match="revoked"):
        visit(config, revoking, first.session)


@pytest.mark.parametrize(
    "change",
    [
        {"client_identities": (ReferenceIdentifier.for_host("client.example"),)},
        {"client_trust": TrustAnchors((*(TRUST.certificates or ()), CLIENT.chain[0]))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_demands_on_clients(
    version: ProtocolVersion, storing: Path, change: dict[str, Any]
) -> None:
    """Whoever was let in under other rules is judged anew."""
    config = client("a.example", version, session_store=storing, key_pair=CLIENT)
    first = visit(config, ASKING)
    after = replace(ASKING, **change)
    assert context.succeed(ASKING, after)
    assert not visit(config, after, first.session).resumed


def test_authorities_are_loaded_once() -> None:
    """Every name's Context verifies with one and the same store."""
    server = replace(ASKING)
    for name in ("a.example", "b.example"):
        Meeting(client(name, key_pair=CLIENT), server)
    stores = {
        made.get_cert_store()._store
        for idle in context.contexts_of(server).shown._idle.values()
        for made in idle
    }
    assert len(stores) == 1


def test_library_that_cannot_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenSSL's functions each Context loads the authorities by itself."""
    monkeypatch.setattr(context, "share_trust", lambda *_: False)
    met = Meeting(client("a.example", key_pair=CLIENT), replace(ASKING))
    assert leaf(met.theirs) == CLIENT.chain[0]


def test_connection_that_ends_early() -> None:
    """It leaves nothing behind in the Context that the next one gets."""
    server = replace(SERVER)
    for _ in range(3):
        engine = Engine(server)
        for record in split_records(Engine(client("a.example")).output()):
            engine.feed(record)
        engine.release()
    Meeting(client("a.example"), server).check_data()
