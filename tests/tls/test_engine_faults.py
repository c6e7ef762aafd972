"""Tests of engine: what peers do wrong, and what they are told."""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import crypto

from tests.conftest import HOST
from tests.doubles import EnginePair
from tlsify.codepoints import Aead, AlertDescription, ContentType, HandshakeType, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import HandshakeError, IdentityError, PeerAlert, PeerMisbehaved
from tlsify.names import ReferenceIdentifier
from tlsify.tls import connection_factory, context
from tlsify.tls.client_hello import MAX_LENGTH
from tlsify.tls.engine import Engine
from tlsify.tls.ration import ALLOWANCE, RECORD_COST
from tlsify.tls.record import (
    HEADER_LENGTH,
    encode_plain_alert,
    encode_record,
    split_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


class Issuer:
    """A certificate authority that issues whatever it is told to."""

    def __init__(self) -> None:
        """Make a key and a root."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign("root", self.key, {"ca": True}, NOW - 9 * DAY, NOW + 9 * DAY)
        self.trust = TrustAnchors((self.root,))

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        what: dict[str, bool],
        start: dt.datetime,
        end: dt.datetime,
        *extensions: x509.ExtensionType,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(
                x509.BasicConstraints(ca=what.get("ca", False), path_length=None), critical=True
            )
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(
        self,
        *extensions: x509.ExtensionType,
        start: dt.datetime = NOW - DAY,
        end: dt.datetime = NOW + DAY,
    ) -> KeyPair:
        """Issue a leaf; without extensions it is for the test host."""
        names = extensions or (x509.SubjectAlternativeName([x509.DNSName(HOST)]),)
        key = ec.generate_private_key(ec.SECP256R1())
        return KeyPair((self._sign("leaf", key, {}, start, end, *names),), key)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    """An authority that the client trusts."""
    return Issuer()


@pytest.fixture(scope="module")
def client_config(issuer: Issuer) -> ClientConfig:
    """A client for the test host."""
    identities = (ReferenceIdentifier.for_host(HOST),)
    return ClientConfig(server_name=HOST, identities=identities, trust=issuer.trust)


@pytest.fixture(scope="module")
def server_config(issuer: Issuer) -> ServerConfig:
    """A server for the test host."""
    return ServerConfig(key_pair=issuer.issue())


def versions(version: ProtocolVersion) -> frozenset[ProtocolVersion]:
    """Allow one version only."""
    return frozenset({version})


def fail(pair: EnginePair) -> tuple[HandshakeError, HandshakeError | None]:
    """Run a handshake that must fail; return its error, and the other side's on the answer."""
    for source, sink in _rounds(pair):
        for record in split_records(source.output()):
            try:
                sink.feed(record)
            except HandshakeError as error:
                return error, _answer(source, sink.output())
    raise AssertionError("the handshake succeeded")


def _rounds(pair: EnginePair) -> Iterator[tuple[Engine, Engine]]:
    for _ in range(6):
        yield pair.client, pair.server
        yield pair.server, pair.client


def _answer(source: Engine, alert: bytes) -> HandshakeError | None:
    if source.result() is not None:
        return None
    for record in split_records(alert):
        try:
            source.feed(record)
        except HandshakeError as error:
            return error
    return None


def assert_told(error: HandshakeError, answer: HandshakeError | None) -> None:
    """The peer learns exactly the alert that the error says was sent."""
    assert error.alert is not None
    assert isinstance(answer, PeerAlert)
    assert answer.alert is error.alert


# -- no agreement


@pytest.mark.parametrize("version", ProtocolVersion)
def test_no_common_suite(
    client_config: ClientConfig, server_config: ServerConfig, version: ProtocolVersion
) -> None:
    """Without a common cipher the server says handshake_failure."""
    client = replace(client_config, aeads=(Aead.AES_GCM_128,), versions=versions(version))
    error, answer = fail(EnginePair(client, replace(server_config, aeads=(Aead.AES_GCM_256,))))
    assert error.alert is AlertDescription.handshake_failure
    assert "no shared cipher" in str(error)
    assert_told(error, answer)


@pytest.mark.parametrize("ours", ProtocolVersion)
def test_no_common_version(
    client_config: ClientConfig, server_config: ServerConfig, ours: ProtocolVersion
) -> None:
    """Without a common version the server says protocol_version."""
    (theirs,) = set(ProtocolVersion) - {ours}
    client = replace(client_config, versions=versions(ours))
    error, answer = fail(EnginePair(client, replace(server_config, versions=versions(theirs))))
    assert error.alert is AlertDescription.protocol_version
    assert_told(error, answer)


def hello(
    legacy_version: int, extensions: bytes = b"", suites: bytes = b"\xc0\x2f\xc0\x2b"
) -> bytes:
    """Build a ClientHello record by hand."""
    body = legacy_version.to_bytes(2, "big") + bytes(32) + b"\0"
    body += len(suites).to_bytes(2, "big") + suites + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return encode_record(ContentType.handshake, message)


@pytest.mark.parametrize("version", [0x0300, 0x0301, 0x0302])
def test_client_of_an_old_version(server_config: ServerConfig, version: int) -> None:
    """TLS 1.1 and older are answered with protocol_version."""
    server = Engine(server_config)
    with pytest.raises(PeerMisbehaved) as caught:
        server.feed(hello(version))
    assert caught.value.alert is AlertDescription.protocol_version
    assert server.output()[-2:] == bytes([2, AlertDescription.protocol_version])


@pytest.mark.parametrize("version", [0x0300, 0x0301, 0x0302])
def test_server_of_an_old_version(client_config: ClientConfig, version: int) -> None:
    """A server that chooses TLS 1.1 or older is answered with protocol_version."""
    client = Engine(client_config)
    client.output()
    body = version.to_bytes(2, "big") + bytes(32) + b"\0" + b"\x00\x2f" + b"\0"
    record = encode_record(ContentType.handshake, b"\x02" + len(body).to_bytes(3, "big") + body)
    with pytest.raises(PeerMisbehaved) as caught:
        client.feed(record)
    assert caught.value.alert is AlertDescription.protocol_version
    assert client.output()[-2:] == bytes([2, AlertDescription.protocol_version])


@pytest.mark.parametrize("version", ProtocolVersion)
def test_no_common_alpn(
    client_config: ClientConfig, server_config: ServerConfig, version: ProtocolVersion
) -> None:
    """A client whose protocols the server does not know is told so (RFC 7301 3.2)."""
    client = replace(client_config, alpn=(b"h2",), versions=versions(version))
    error, answer = fail(EnginePair(client, replace(server_config, alpn=(b"http/1.1",))))
    assert error.alert is AlertDescription.no_application_protocol
    assert_told(error, answer)


def test_no_common_alpn_is_nobody_elses_error(
    client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """One client's refusal never ends another connection of the same server configuration."""
    server_config = replace(server_config, alpn=(b"http/1.1",))
    victim = EnginePair(client_config, server_config)
    records = split_records(victim.client.output())
    attacker = EnginePair(replace(client_config, alpn=(b"h2",)), server_config)

    class Interleaved(Engine):
        """An engine in the middle of whose callbacks another thread gets its turn."""

        def on_alert(self, *, sent: bool, description: int) -> None:
            super().on_alert(sent=sent, description=description)
            while records:
                victim.server.feed(records.pop(0))

    attacker.server = Interleaved(server_config)
    error, _ = fail(attacker)
    assert error.alert is AlertDescription.no_application_protocol
    while records:
        victim.server.feed(records.pop(0))
    client, server = victim.run()
    assert client.suite is server.suite


# -- the wrong peer


@pytest.mark.parametrize("version", ProtocolVersion)
def test_wrong_name(
    client_config: ClientConfig, server_config: ServerConfig, version: ProtocolVersion
) -> None:
    """A wrong peer is told bad_certificate, and never gets our Finished."""
    wanted = (
        ReferenceIdentifier.for_host("example.com"),
        ReferenceIdentifier.parse("ip:192.0.2.1"),
    )
    client = replace(client_config, identities=wanted, versions=versions(version))
    pair = EnginePair(client, server_config)
    error, answer = fail(pair)
    assert isinstance(error, IdentityError)
    assert error.mismatches == (f"dns:{HOST}",)
    assert "dns:example.com or ip:192.0.2.1" in str(error)
    assert error.alert is AlertDescription.bad_certificate
    assert_told(error, answer)
    assert pair.client.result() is None
    assert pair.server.result() is None


def _expect_untrusted(
    client: ClientConfig, server: ServerConfig, words: str, alert: AlertDescription
) -> None:
    for version in ProtocolVersion:
        error, answer = fail(EnginePair(replace(client, versions=versions(version)), server))
        assert isinstance(error, IdentityError)
        assert words in str(error)
        assert error.alert is alert
        assert_told(error, answer)


def test_expired(client_config: ClientConfig, issuer: Issuer) -> None:
    """An expired certificate is refused as such."""
    key_pair = issuer.issue(start=NOW - 3 * DAY, end=NOW - DAY)
    server = ServerConfig(key_pair=key_pair)
    _expect_untrusted(client_config, server, "expired", AlertDescription.certificate_expired)


def test_not_yet_valid(client_config: ClientConfig, issuer: Issuer) -> None:
    """A certificate of tomorrow is refused as such."""
    server = ServerConfig(key_pair=issuer.issue(start=NOW + DAY, end=NOW + 3 * DAY))
    _expect_untrusted(client_config, server, "not yet valid", AlertDescription.bad_certificate)


def test_self_signed(client_config: ClientConfig) -> None:
    """A certificate that vouches for itself is refused."""
    server = ServerConfig(key_pair=make_key_pair([HOST]))
    _expect_untrusted(client_config, server, "self-signed", AlertDescription.unknown_ca)


def test_wrong_authority(client_config: ClientConfig) -> None:
    """The right name from an authority that nobody trusts is refused."""
    server = ServerConfig(key_pair=Issuer().issue())
    for version in ProtocolVersion:
        client = replace(client_config, versions=versions(version))
        error, answer = fail(EnginePair(client, server))
        assert isinstance(error, IdentityError)
        assert_told(error, answer)


def test_trusting_nobody(client_config: ClientConfig, server_config: ServerConfig) -> None:
    """An empty list of anchors trusts nobody, rather than the system's."""
    client = replace(client_config, trust=TrustAnchors(()))
    error, _ = fail(EnginePair(client, server_config))
    assert isinstance(error, IdentityError)


def test_systems_store(client_config: ClientConfig, server_config: ServerConfig) -> None:
    """The system's authorities did not issue the test's certificate."""
    error, _ = fail(EnginePair(replace(client_config, trust=TrustAnchors()), server_config))
    assert isinstance(error, IdentityError)


def test_anchor_with_a_wrong_name(client_config: ClientConfig) -> None:
    """Trusting the very certificate of a server does not make it somebody else."""
    other = make_key_pair(["example.com"])
    client = replace(client_config, trust=TrustAnchors(other.chain))
    error, answer = fail(EnginePair(client, ServerConfig(key_pair=other)))
    assert isinstance(error, IdentityError)
    assert error.mismatches == ("dns:example.com",)
    assert_told(error, answer)


def test_verification_off(client_config: ClientConfig) -> None:
    """Without verification anybody will do, and the certificate is there to look at."""
    client = replace(client_config, verify=False)
    server = ServerConfig(key_pair=make_key_pair(["somebody.else"]))
    outcome, _ = EnginePair(client, server).run()
    assert outcome.peer_certificate == server.key_pair.chain[0]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(b"\x30\x04\xa3\x02\x30\x00", id="x400Address"),
        pytest.param(b"\x30\x05\x87\x03\x01\x02\x03", id="address of three bytes"),
        pytest.param(b"\x30\x03\x82\x01\xff", id="not ASCII"),
        pytest.param(b"\x30\x03\x82\x01\x1b", id="control character"),
        pytest.param(b"\x30\x00", id="none"),
    ],
)
def test_names_that_cannot_be_read(
    client_config: ClientConfig, issuer: Issuer, names: bytes
) -> None:
    """A trusted certificate with unreadable names is a wrong peer like any other."""
    extension = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names)
    server = ServerConfig(key_pair=issuer.issue(extension))
    error, answer = fail(EnginePair(client_config, server))
    assert isinstance(error, IdentityError)
    assert str(error).isprintable()
    assert_told(error, answer)


def test_certificate_of_an_unknown_version(client_config: ClientConfig, issuer: Issuer) -> None:
    """X.509 v4, which OpenSSL takes, has no names; unverified, only parsing it is an error."""
    key_pair = issuer.issue()
    server = ServerConfig(key_pair=key_pair)
    _replace_certificate(server, _with_version(key_pair.chain[0], issuer.key, 3))
    error, answer = fail(EnginePair(client_config, server))
    assert isinstance(error, IdentityError)
    assert_told(error, answer)
    outcome, _ = EnginePair(replace(client_config, verify=False), server).run()
    assert outcome.peer_subject == ""
    with pytest.raises(PeerMisbehaved, match="malformed"):
        _ = outcome.peer_certificate


def _with_version(
    certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, version: int
) -> bytes:
    """Sign a certificate again with another version number in it."""
    tbs = certificate.tbs_certificate_bytes
    tbs = tbs.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version]), 1)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    signature = b"\0" + key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    bits = b"\x03" + _length(len(signature)) + signature
    inner = tbs + algorithm + bits
    return b"\x30" + _length(len(inner)) + inner


def _length(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(digits)]) + digits


def _replace_certificate(server: ServerConfig, der: bytes) -> None:
    """Make a server show a certificate that the parser would not have loaded."""
    connection_factory.prepare(server, server.aeads, 0.0)
    ((shown,),) = context.contexts_of(server).shown._idle.values()
    shown._used = False
    with pytest.warns(DeprecationWarning, match="X509"):  # the only way to show what does not parse
        shown.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, der))


# -- garbage


@pytest.mark.parametrize(
    "header",
    [
        b"GET /",
        b"HTTP/",
        b"\x80\x2e\x01\x00\x02",
        b"\x18\x03\x03\x00\x05",
        b"\x00" * 5,
        b"\x16\x02\x00\x00\x05",
        b"\x16\x03\x03\xff\xff",
        b"\x17\x03\x03\x48\x01",
    ],
)
@pytest.mark.parametrize("is_client", [True, False])
def test_bytes_that_are_no_record(
    client_config: ClientConfig, server_config: ServerConfig, header: bytes, *, is_client: bool
) -> None:
    """Garbage instead of the first record: the error tells the alert that really goes out."""
    engine = Engine(client_config if is_client else server_config)
    engine.output()
    with pytest.raises(PeerMisbehaved) as caught:
        engine.feed(header)
    output = engine.output()
    if caught.value.alert is None:
        assert output == b""
    else:
        assert [r[HEADER_LENGTH:] for r in split_records(output)] == [
            bytes([2, caught.value.alert])
        ]
    if not is_client:
        assert caught.value.alert is not None


@given(st.sampled_from(ContentType), st.binary(max_size=80))
def test_arbitrary_first_record_to_a_server(content_type: ContentType, payload: bytes) -> None:
    """Whatever a client starts with raises only HandshakeError, with the right alert put out."""
    server = Engine(SERVER)
    try:
        server.feed(encode_record(content_type, payload))
    except HandshakeError as error:
        expected = b"" if error.alert is None else bytes([2, error.alert])
        assert server.output()[HEADER_LENGTH:] == expected


@given(st.sampled_from(ContentType), st.binary(max_size=80))
def test_arbitrary_first_record_to_a_client(content_type: ContentType, payload: bytes) -> None:
    """Whatever a server answers raises only HandshakeError, with the right alert put out."""
    client = Engine(CLIENT)
    client.output()
    try:
        client.feed(encode_record(content_type, payload))
    except PeerAlert:
        assert client.output() == b""
    except HandshakeError as error:
        expected = b"" if error.alert is None else bytes([2, error.alert])
        assert client.output()[HEADER_LENGTH:] == expected


@given(st.binary(max_size=200))
def test_arbitrary_server_hello(body: bytes) -> None:
    """A ServerHello of arbitrary content raises only HandshakeError."""
    client = Engine(CLIENT)
    message = b"\x02" + len(body).to_bytes(3, "big") + body
    try:
        client.feed(encode_record(ContentType.handshake, message))
    except HandshakeError as error:
        assert error.alert is not None


SERVER = ServerConfig(key_pair=make_key_pair([HOST]))
CLIENT = ClientConfig(
    server_name=HOST,
    identities=(ReferenceIdentifier.for_host(HOST),),
    trust=TrustAnchors(SERVER.key_pair.chain),
)


@pytest.mark.parametrize("description", AlertDescription)
def test_alert_instead_of_a_server_hello(description: AlertDescription) -> None:
    """A server's fatal alert is told by name, and not answered."""
    client = Engine(CLIENT)
    client.output()
    with pytest.raises(PeerAlert, match=description.name) as caught:
        client.feed(encode_plain_alert(description))
    assert caught.value.alert is description
    assert client.output() == b""


def test_alert_instead_of_a_client_hello() -> None:
    """A client that starts with an alert is not answered."""
    server = Engine(SERVER)
    with pytest.raises(PeerAlert):
        server.feed(encode_plain_alert(AlertDescription.user_canceled))
    assert server.output() == b""


@pytest.mark.parametrize("version", ProtocolVersion)
def test_alert_instead_of_the_clients_finished(version: ProtocolVersion) -> None:
    """A client that gives up after the server's flight is heard."""
    pair = EnginePair(replace(CLIENT, versions=versions(version)), SERVER)
    for record in split_records(pair.client.output()):
        pair.server.feed(record)
    assert pair.server.output()
    with pytest.raises(PeerAlert, match="unknown_ca") as caught:
        pair.server.feed(encode_plain_alert(AlertDescription.unknown_ca))
    assert caught.value.alert is AlertDescription.unknown_ca


@pytest.mark.parametrize("version", ProtocolVersion)
def test_alert_behind_the_client_hello(version: ProtocolVersion) -> None:
    """A client that gives up at once is heard, even if all of it comes together."""
    pair = EnginePair(replace(CLIENT, versions=versions(version)), SERVER)
    with pytest.raises(PeerAlert, match="internal_error") as caught:
        pair.server.feed(pair.client.output() + encode_plain_alert(AlertDescription.internal_error))
    assert caught.value.alert is AlertDescription.internal_error


def test_warning_in_front_of_our_own_refusal() -> None:
    """A warning that was passed over does not get the blame for what follows."""
    client = Engine(replace(CLIENT, versions=versions(TLS12)))
    client.output()
    client.feed(encode_record(ContentType.alert, bytes([1, AlertDescription.unrecognized_name])))
    with pytest.raises(PeerMisbehaved) as caught:
        client.feed(encode_record(ContentType.handshake, b"\x02\0\0\x01\0"))
    assert caught.value.alert is AlertDescription.decode_error
    assert client.output()[HEADER_LENGTH:] == bytes([2, AlertDescription.decode_error])


# -- records that are odd


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("version", ProtocolVersion)
def test_fragmented_client_hello(version: ProtocolVersion, size: int) -> None:
    """A ClientHello in small fragments is as good as in one record."""
    pair = EnginePair(replace(CLIENT, versions=versions(version)), SERVER)
    (record,) = split_records(pair.client.output())
    message = record[HEADER_LENGTH:]
    for start in range(0, len(message), size):
        pair.server.feed(encode_record(ContentType.handshake, message[start : start + size]))
    client, server = pair.run()
    assert client.suite is server.suite


@pytest.mark.parametrize("version", ProtocolVersion)
def test_client_hello_in_too_many_records(version: ProtocolVersion) -> None:
    """One that goes on and on by single bytes is not worth its work: it is refused on the way."""
    server = Engine(replace(SERVER, versions=versions(version)))
    server.feed(encode_record(ContentType.handshake, b"\x01\0\xff\xff"))
    byte = encode_record(ContentType.handshake, b"\0")
    for _ in range(2000):
        server.feed(byte)
    with pytest.raises(PeerMisbehaved, match="too many records") as caught:
        deque(map(server.feed, repeat(byte, 100)), 0)
    assert caught.value.alert is AlertDescription.unexpected_message
    assert server.output() == encode_plain_alert(AlertDescription.unexpected_message)


@pytest.mark.parametrize("version", ProtocolVersion)
def test_answer_in_too_many_records(version: ProtocolVersion) -> None:
    """Likewise a server's answer; OpenSSL says the alert, however that has to be sealed."""
    pair = EnginePair(replace(CLIENT, versions=versions(version)), SERVER)
    warning = encode_record(ContentType.alert, bytes([1, AlertDescription.unrecognized_name]))
    first, *_ = split_records(pair.client.output())
    pair.server.feed(first)
    pair.client.feed(split_records(pair.server.output())[0])
    pair.client._framer.length = 0
    pair.client._framer.count += ALLOWANCE // RECORD_COST
    with pytest.raises(PeerMisbehaved, match="too many records") as caught:
        pair.client.feed(warning)
    assert caught.value.alert is not None
    assert pair.client.output()


@pytest.mark.parametrize("version", ProtocolVersion)
def test_client_hello_that_is_very_long(version: ProtocolVersion) -> None:
    """As many suites as there is room for, and extensions: RFC 8446 4.1.2 allows them."""
    (record,) = split_records(Engine(replace(CLIENT, versions=versions(version))).output())
    body = record[HEADER_LENGTH + 4 :]
    suites = 35 + body[34]
    extensions = suites + 2 + int.from_bytes(body[suites : suites + 2], "big") + 2
    many = body[suites + 2 : extensions - 2] + b"\x7a\x7a" * 32000
    block = body[extensions + 2 :]
    block += b"\xfe\0" + (60000).to_bytes(2, "big") + bytes(60000)
    long = body[:suites] + len(many).to_bytes(2, "big") + many + body[extensions - 2 : extensions]
    long += len(block).to_bytes(2, "big") + block
    assert 2**16 < len(long) < MAX_LENGTH
    message = b"\x01" + len(long).to_bytes(3, "big") + long
    server = Engine(replace(SERVER, versions=versions(version)))
    for start in range(0, len(message), 2**14):
        piece = message[start : start + 2**14]
        server.feed(encode_record(ContentType.handshake, piece))
    answer = server.output()
    assert answer[0] == ContentType.handshake
    assert answer[HEADER_LENGTH] == HandshakeType.server_hello


def test_client_hello_that_is_too_long() -> None:
    """A ClientHello beyond the limit is refused by its header."""
    server = Engine(SERVER)
    with pytest.raises(PeerMisbehaved, match="exceeds") as caught:
        server.feed(
            encode_record(ContentType.handshake, b"\x01" + (MAX_LENGTH + 1).to_bytes(3, "big"))
        )
    assert server.output() == encode_plain_alert(AlertDescription.illegal_parameter)
    assert caught.value.alert is AlertDescription.illegal_parameter


@pytest.mark.parametrize("content_type", ContentType)
def test_empty_record_first(content_type: ContentType) -> None:
    """An empty record is no way to start."""
    server = Engine(SERVER)
    with pytest.raises(HandshakeError):
        server.feed(encode_record(content_type, b""))


def test_empty_records_inside_a_client_hello() -> None:
    """A client cannot keep a server busy with empty fragments."""
    server = Engine(SERVER)
    server.feed(encode_record(ContentType.handshake, b"\x01\x00"))
    with pytest.raises(PeerMisbehaved, match="empty"):
        server.feed(encode_record(ContentType.handshake, b""))
    assert server.output() == encode_plain_alert(AlertDescription.unexpected_message)


@pytest.mark.parametrize("content_type", ContentType)
def test_flood_of_empty_records_to_a_client(content_type: ContentType) -> None:
    """Empty records without end are refused before long."""
    client = Engine(CLIENT)
    flood = encode_record(content_type, b"")

    def feed() -> None:
        for _ in range(100):
            client.feed(flood)

    with pytest.raises(HandshakeError):
        feed()


def test_second_message_behind_the_client_hello() -> None:
    """What follows a ClientHello in its record is refused."""
    (record,) = split_records(Engine(CLIENT).output())
    server = Engine(SERVER)
    with pytest.raises(PeerMisbehaved):
        server.feed(encode_record(ContentType.handshake, record[HEADER_LENGTH:] + b"\x0b\0\0\0"))
    assert server.output()


def test_record_of_more_than_tls_allows() -> None:
    """A plaintext record beyond 2**14 bytes is a record_overflow."""
    client = Engine(CLIENT)
    client.output()
    with pytest.raises(PeerMisbehaved) as caught:
        client.feed(encode_record(ContentType.handshake, bytes(2**14 + 1)))
    assert caught.value.alert is AlertDescription.record_overflow
    assert client.output()[HEADER_LENGTH:] == bytes([2, AlertDescription.record_overflow])


def test_failed_engine_is_fed_again() -> None:
    """After an error further records raise further errors, of the same family."""
    client = Engine(CLIENT)
    for _ in range(3):
        with pytest.raises(HandshakeError):
            client.feed(encode_record(ContentType.application_data, b"x"))
    assert client.result() is None


def test_der_helper_signs_what_openssl_accepts(issuer: Issuer) -> None:
    """The re-signing above is right: with its own version a certificate comes out as it was."""
    certificate = issuer.issue().chain[0]
    again = x509.load_der_x509_certificate(_with_version(certificate, issuer.key, 2))
    assert again.tbs_certificate_bytes == certificate.tbs_certificate_bytes
    again.verify_directly_issued_by(issuer.root)
    assert again.public_bytes(Encoding.DER)[:1] == b"\x30"
