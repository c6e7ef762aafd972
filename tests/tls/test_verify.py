"""Tests of verify: who is refused, why, and what the refused one is told."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto

from tests.certificates import DAY, certify, now
from tests.conftest import HOST, issue, make_crl
from tests.doubles import EnginePair, keys_of
from tlsify.codepoints import AlertDescription, ContentType, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import parse_certificates, parse_crls
from tlsify.credentials.pem import parse_pins, spell_pin
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import HandshakeError, IdentityError, PeerAlert
from tlsify.names import ReferenceIdentifier
from tlsify.tls.certificates import key_hash
from tlsify.tls.engine import Engine
from tlsify.tls.protection import open_record
from tlsify.tls.record import split_records
from tlsify.tls.ticket_reader import TicketReader

if TYPE_CHECKING:
    from tlsify.tls.negotiated import Negotiated

ANYBODY = (ReferenceIdentifier.parse("dns:client.example"),)
ZEROS = bytes(32)


@pytest.fixture(params=ProtocolVersion, ids=lambda version: version.label)
def version(request: pytest.FixtureRequest) -> frozenset[ProtocolVersion]:
    """Either version alone."""
    return frozenset({request.param})


@pytest.fixture
def client(client_config: ClientConfig, version: frozenset[ProtocolVersion]) -> ClientConfig:
    """A client that accepts the test host only."""
    return replace(client_config, versions=version)


@pytest.fixture
def server(server_config: ServerConfig) -> ServerConfig:
    """A server that is the test host."""
    return server_config


@pytest.fixture
def choosy(server: ServerConfig, trust: TrustAnchors) -> ServerConfig:
    """A server that wants certificates of its clients."""
    return replace(server, client_trust=trust, client_required=True)


@pytest.fixture(scope="module")
def credentials(authority: trustme.CA) -> KeyPair:
    """A client's certificate, from the authority that servers trust."""
    return issue(authority, "client.example")


def refused(client: ClientConfig, server: ServerConfig) -> tuple[HandshakeError, AlertDescription]:
    """Run a handshake that one side must refuse; return its error and what the other side hears."""
    pair = EnginePair(client, server)
    with pytest.raises(HandshakeError) as caught:
        pair.run()
    (judge,) = (e for e in (pair.client, pair.server) if e.result() is None and _is_due(e))
    return caught.value, _heard(pair.client if judge is pair.server else pair.server, judge)


def _is_due(engine: Engine) -> bool:
    return bool(engine._output)


def _heard(other: Engine, judge: Engine) -> AlertDescription:
    *_, record = split_records(judge.output())
    keys = other.keys
    if keys is None:
        with pytest.raises(PeerAlert) as told:
            other.feed(record)
        assert told.value.alert is not None
        return told.value.alert
    # A client of TLS 1.3 has finished before the server judges: the kernel has its keys by now.
    kind, alert = open_record(keys.rx, keys.rx.seq, record)
    assert kind == ContentType.alert
    return AlertDescription(alert[1])


def pin_of(pair: KeyPair) -> bytes:
    """Return the pin of a certificate's key."""
    return key_hash(crypto.X509.from_cryptography(pair.chain[0]))


def lists(*pem: bytes) -> dict[str, tuple[object, ...]]:
    """Return the argument that sets revocation lists."""
    return {"crls": tuple(crl for part in pem for crl in parse_crls(part, "it"))}


# -- pins


def test_right_pin(client: ClientConfig, server: ServerConfig) -> None:
    """One right pin among others will do."""
    EnginePair(replace(client, pins=(ZEROS, pin_of(server.key_pair))), server).run()


@pytest.mark.parametrize("verify", [True, False])
def test_wrong_pin(client: ClientConfig, server: ServerConfig, *, verify: bool) -> None:
    """Another key is refused, whatever else is right; the error says which key it is."""
    error, heard = refused(replace(client, pins=(ZEROS,), verify=verify), server)
    assert isinstance(error, IdentityError)
    found = spell_pin(pin_of(server.key_pair))
    assert error.mismatches == (found,)
    assert found in str(error)
    assert parse_pins(found) == (pin_of(server.key_pair),)
    assert error.alert is heard is AlertDescription.certificate_unknown


def test_pin_alone(client: ClientConfig) -> None:
    """Without verification the pin decides: neither path nor name matter."""
    stranger = ServerConfig(key_pair=make_key_pair(["somebody.else"]))
    EnginePair(replace(client, verify=False, pins=(pin_of(stranger.key_pair),)), stranger).run()


def test_pin_is_no_substitute(client: ClientConfig, authority: trustme.CA) -> None:
    """With verification path and name have to be right too."""
    stranger = make_key_pair([HOST])
    error, heard = refused(
        replace(client, pins=(pin_of(stranger),)), ServerConfig(key_pair=stranger)
    )
    assert "not trusted" in str(error)
    assert heard is AlertDescription.unknown_ca
    other = issue(authority, "somebody.else")
    error, heard = refused(replace(client, pins=(pin_of(other),)), ServerConfig(key_pair=other))
    assert "dns:somebody.else" in str(error)
    assert heard is AlertDescription.bad_certificate


def test_pin_of_the_authority(
    client: ClientConfig, server: ServerConfig, trust: TrustAnchors
) -> None:
    """Only the certificate's own key counts, not one further up."""
    assert trust.certificates is not None
    root = key_hash(crypto.X509.from_cryptography(trust.certificates[0]))
    error, _ = refused(replace(client, pins=(root,)), server)
    assert isinstance(error, IdentityError)


def test_pin_without_verification_and_an_incomplete_path(client: ClientConfig) -> None:
    """A chain that leads nowhere is overlooked with the rest, but not its key."""
    lonely = issue(trustme.CA().create_child_ca(), HOST)
    server = ServerConfig(key_pair=KeyPair(lonely.chain[:1], lonely.key))
    EnginePair(replace(client, verify=False, pins=(pin_of(lonely),)), server).run()
    error, _ = refused(replace(client, verify=False, pins=(ZEROS,)), server)
    assert isinstance(error, IdentityError)


# -- paths that are refused, and what is to be done


def _signed(
    name: str,
    issuer: tuple[str, ec.EllipticCurvePrivateKey | None],
    *extensions: x509.ExtensionType,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer[0])]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(issuer[1] or key, hashes.SHA256()), key


def _may_issue(length: int | None = None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=True, path_length=length)


NAMED = x509.SubjectAlternativeName([x509.DNSName(HOST)])
ELSEWHERE = [x509.DNSName("elsewhere.example")]
NOBODYS = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
REFUSED: dict[str, tuple[list[x509.ExtensionType], list[x509.ExtensionType], str, str]] = {
    "permitted": (
        [_may_issue(), x509.NameConstraints(ELSEWHERE, None)],
        [NAMED],
        *("permitted subtree violation", "may not issue"),
    ),
    "excluded": (
        [_may_issue(), x509.NameConstraints(None, [x509.DNSName(HOST)])],
        [NAMED],
        *("excluded subtree violation", "may not issue"),
    ),
    "purpose": (
        [_may_issue()],
        [NAMED, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])],
        *("purpose", "another use"),
    ),
    "no authority": (
        [x509.BasicConstraints(ca=False, path_length=None)],
        [NAMED],
        *("invalid CA certificate", "may not issue"),
    ),
    "unknown": ([_may_issue()], [NAMED, NOBODYS], "unhandled critical", "not as it should be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_path_that_no_trust_can_mend(client: ClientConfig, case: str) -> None:
    """The hint says what is wrong with it, and does not ask for more trust."""
    of_middle, of_leaf, why, hint = REFUSED[case]
    root, key = _signed("root", ("root", None), _may_issue())
    middle, key = _signed("middle", ("root", key), *of_middle)
    leaf, key = _signed("leaf", ("middle", key), *of_leaf)
    shown = ServerConfig(key_pair=KeyPair((leaf, middle), key))
    with pytest.raises(IdentityError, match=why) as caught:
        EnginePair(replace(client, trust=TrustAnchors((root,))), shown).run()
    assert hint in caught.value.hint
    assert "--ca" not in caught.value.hint


def test_certificate_that_demands_a_response(client: ClientConfig, authority: trustme.CA) -> None:
    """Who asks for none, as docs/standards.md has it, does not miss one either."""
    EnginePair(client, ServerConfig(key_pair=certify(authority, HOST, must_staple=True))).run()


# -- revocation lists


def test_certificate_on_no_list(
    client: ClientConfig, server: ServerConfig, authority: trustme.CA, credentials: KeyPair
) -> None:
    """Who is not on the list is accepted."""
    EnginePair(replace(client, **lists(make_crl(authority, credentials))), server).run()  # type: ignore[arg-type]


def test_revoked(client: ClientConfig, server: ServerConfig, authority: trustme.CA) -> None:
    """Who is on it is refused."""
    crls = lists(make_crl(authority, server.key_pair))
    error, heard = refused(replace(client, **crls), server)  # type: ignore[arg-type]
    assert isinstance(error, IdentityError)
    assert "revoked" in str(error)
    assert "withdrawn" in error.hint
    assert error.alert is heard is AlertDescription.certificate_revoked


def test_list_that_has_expired(
    client: ClientConfig, server: ServerConfig, authority: trustme.CA
) -> None:
    """A list that is out of date proves nothing: the peer is refused, not let through."""
    old = make_crl(authority, until=-dt.timedelta(days=1))
    error, heard = refused(replace(client, **lists(old)), server)  # type: ignore[arg-type]
    assert "CRL has expired" in str(error)
    assert "current revocation list" in error.hint
    assert heard is AlertDescription.certificate_expired


def test_list_of_somebody_else(client: ClientConfig, server: ServerConfig) -> None:
    """Where lists are wanted, the peer's own issuer must have one."""
    error, _ = refused(replace(client, **lists(make_crl(trustme.CA()))), server)  # type: ignore[arg-type]
    assert "unable to get certificate CRL" in str(error)
    assert "revocation list" in error.hint


def test_intermediate_authorities(client: ClientConfig) -> None:
    """Further up a list is not required, but counts where there is one."""
    root = trustme.CA()
    middle = root.create_child_ca()
    server = ServerConfig(key_pair=issue(middle, HOST))
    anchors = TrustAnchors(parse_certificates(root.cert_pem.bytes(), "it"))
    client = replace(client, trust=anchors)
    EnginePair(replace(client, **lists(make_crl(middle))), server).run()  # type: ignore[arg-type]
    withdrawn = KeyPair(server.key_pair.chain[1:], server.key_pair.key)
    both = lists(make_crl(middle), make_crl(root, withdrawn))
    error, heard = refused(replace(client, **both), server)  # type: ignore[arg-type]
    assert "revoked" in str(error)
    assert heard is AlertDescription.certificate_revoked
    # The root's list is out of date, and that of the middle is not.
    old = lists(make_crl(middle), make_crl(root, until=-dt.timedelta(days=1)))
    error, _ = refused(replace(client, **old), server)  # type: ignore[arg-type]
    assert "CRL has expired" in str(error)


def test_forged_list(client: ClientConfig, server: ServerConfig, authority: trustme.CA) -> None:
    """A list that the issuer has not signed is not taken for his."""
    forged = lists(make_crl(authority, signer=trustme.CA()))
    error, _ = refused(replace(client, **forged), server)  # type: ignore[arg-type]
    assert "CRL signature failure" in str(error)


# -- clients' certificates


def test_client_with_a_certificate(
    client: ClientConfig, choosy: ServerConfig, credentials: KeyPair
) -> None:
    """A server that asks gets the certificate, and can tell who came."""
    _, outcome = EnginePair(replace(client, key_pair=credentials), choosy).run()
    assert outcome.peer_certificate == credentials.chain[0]
    assert outcome.server_name == HOST
    assert outcome.peer_subject == credentials.chain[0].subject.rfc4514_string()
    assert outcome.peer_hash == credentials.chain[0].fingerprint(hashes.SHA256()).hex()


def test_client_without_one(client: ClientConfig, choosy: ServerConfig) -> None:
    """It is refused, in the words of either version."""
    error, heard = refused(client, choosy)
    assert isinstance(error, IdentityError)
    assert str(error) == "the client shows no certificate"
    is_tls13 = client.versions == {ProtocolVersion.TLSv1_3}
    expected = (
        AlertDescription.certificate_required if is_tls13 else AlertDescription.handshake_failure
    )
    assert error.alert is heard is expected


def test_client_that_need_not_have_one(
    client: ClientConfig, choosy: ServerConfig, credentials: KeyPair
) -> None:
    """A server that asks and does not insist takes both; but not a wrong certificate."""
    lenient = replace(choosy, client_required=False, client_identities=ANYBODY)
    _, outcome = EnginePair(client, lenient).run()
    assert outcome.peer_certificate is None
    assert outcome.peer_subject is None
    assert outcome.peer_hash is None
    EnginePair(replace(client, key_pair=credentials), lenient).run()
    error, _ = refused(replace(client, key_pair=make_key_pair(["client.example"])), lenient)
    assert isinstance(error, IdentityError)


def test_client_of_another_authority(client: ClientConfig, choosy: ServerConfig) -> None:
    """A certificate that the server's anchors have not issued is refused."""
    stranger = issue(trustme.CA(), "client.example")
    error, heard = refused(replace(client, key_pair=stranger), choosy)
    assert isinstance(error, IdentityError)
    assert "not trusted" in str(error)
    assert error.alert is heard is AlertDescription.unknown_ca


def test_client_whose_certificate_has_expired(
    client: ClientConfig, choosy: ServerConfig, authority: trustme.CA
) -> None:
    """Time is judged too."""
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    leaf = authority.issue_cert("client.example", not_after=yesterday)
    old = KeyPair.from_pem(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())
    error, heard = refused(replace(client, key_pair=old), choosy)
    assert "expired" in str(error)
    assert error.alert is heard is AlertDescription.certificate_expired


def test_client_with_a_wrong_name(
    client: ClientConfig, choosy: ServerConfig, credentials: KeyPair, authority: trustme.CA
) -> None:
    """Where the server names whom it accepts, any other name is refused."""
    choosy = replace(choosy, client_identities=ANYBODY)
    EnginePair(replace(client, key_pair=credentials), choosy).run()
    other = replace(client, key_pair=issue(authority, "somebody.else"))
    error, heard = refused(other, choosy)
    assert isinstance(error, IdentityError)
    assert error.mismatches == ("dns:somebody.else",)
    assert error.alert is heard is AlertDescription.bad_certificate


def test_client_whose_certificate_is_revoked(
    client: ClientConfig, choosy: ServerConfig, credentials: KeyPair, authority: trustme.CA
) -> None:
    """Revocation lists are for clients as well."""
    choosy = replace(choosy, **lists(make_crl(authority, credentials)))  # type: ignore[arg-type]
    error, heard = refused(replace(client, key_pair=credentials), choosy)
    assert error.alert is heard is AlertDescription.certificate_revoked
    EnginePair(replace(client, key_pair=issue(authority, "client.example")), choosy).run()


def test_server_that_does_not_ask(
    client: ClientConfig, server: ServerConfig, credentials: KeyPair
) -> None:
    """What nobody has asked for is not sent."""
    _, outcome = EnginePair(replace(client, key_pair=credentials), server).run()
    assert outcome.peer_certificate is None


# -- resumption, which shows no certificate


def _resume(client: ClientConfig, server: ServerConfig, session: bytes) -> Negotiated:
    ours, theirs = Engine(client, session=session), Engine(server)
    while theirs.result() is None:
        for record in split_records(ours.output()):
            theirs.feed(record)
        for record in split_records(theirs.output()):
            if ours.result() is None:
                ours.feed(record)
    outcome = theirs.result()
    assert outcome is not None
    return outcome


def _session(client: ClientConfig, server: ServerConfig) -> bytes:
    ours, theirs = Engine(client), Engine(server)
    beyond: list[bytes] = []
    moved = True
    while moved:
        moved = False
        for record in split_records(ours.output()):
            theirs.feed(record)
            moved = True
        for record in split_records(theirs.output()):
            moved = True
            if ours.result() is None:
                ours.feed(record)
            else:
                beyond.append(record)
    found = ours.resumable()
    if found is None:
        _, message = open_record(keys_of(ours).rx, 0, beyond[0])
        found = TicketReader(ours).add(message)
    assert found is not None
    return found.session


@pytest.fixture
def resuming(client: ClientConfig, credentials: KeyPair) -> ClientConfig:
    """A client with a certificate that wants sessions."""
    return replace(client, key_pair=credentials, session_store=Path("unused"))


def test_resumed_client(resuming: ClientConfig, choosy: ServerConfig, credentials: KeyPair) -> None:
    """Who resumes is who came first, and is judged by his names again."""
    choosy = replace(choosy, client_identities=ANYBODY, resumption=True)
    outcome = _resume(resuming, choosy, _session(resuming, choosy))
    assert outcome.resumed
    assert outcome.peer_certificate == credentials.chain[0]


def test_resumed_server_with_a_wrong_pin(resuming: ClientConfig, server: ServerConfig) -> None:
    """A session mixed up with one of another key is refused, verified or not."""
    server = replace(server, resumption=True)
    session = _session(resuming, server)
    for verify in (True, False):
        pinned = replace(resuming, pins=(ZEROS,), verify=verify)
        with pytest.raises(IdentityError, match="not one of those pinned"):
            _resume(pinned, server, session)
        right = replace(pinned, pins=(pin_of(server.key_pair),))
        assert _resume(right, server, session).resumed


# -- the key log


def test_secrets_only_for_those_who_ask(client: ClientConfig, server: ServerConfig) -> None:
    """Nothing is kept unless the configuration names a file."""
    pair = EnginePair(client, server)
    pair.run()
    assert pair.client.take_key_log() == pair.server.take_key_log() == b""


def test_secrets_logged(client: ClientConfig, server: ServerConfig) -> None:
    """Both sides log the same lines, once."""
    log = Path("unused")
    pair = EnginePair(replace(client, key_log=log), replace(server, key_log=log))
    pair.run()
    lines = pair.client.take_key_log()
    assert sorted(lines.splitlines()) == sorted(pair.server.take_key_log().splitlines())
    assert lines.endswith(b"\n")
    is_tls13 = client.versions == {ProtocolVersion.TLSv1_3}
    assert (b"SERVER_TRAFFIC_SECRET_0 " if is_tls13 else b"CLIENT_RANDOM ") in lines
    assert pair.client.take_key_log() == b""
