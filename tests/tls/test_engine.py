"""Tests of engine: what it negotiates, and that its keys are right."""

from __future__ import annotations

import itertools
import ssl
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.conftest import HOST
from tests.doubles import EnginePair, emitted, keys_of, opened
from tlsify.codepoints import (
    DEFAULT_AEADS,
    Aead,
    CipherSuite,
    ContentType,
    ProtocolVersion,
)
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import ConfigError, PeerMisbehaved, TlsifyError
from tlsify.keys import TrafficKeys
from tlsify.names import ReferenceIdentifier
from tlsify.tls.engine import Engine
from tlsify.tls.messages import decode_new_session_ticket
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import HEADER_LENGTH, split_records
from tlsify.tls.schedule import key_block
from tlsify.tls.tunnel import Tunnel

if TYPE_CHECKING:
    from tlsify.credentials.anchors import TrustAnchors
    from tlsify.tls.negotiated import Negotiated

TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
SUITES: list[CipherSuite] = list(CipherSuite)
TLS12_SUITES = [suite for suite in SUITES if suite.version is TLS12]
# Python's ssl cannot switch TLS 1.3's CCM suite on.
SSL_SUITES: list[CipherSuite] = [
    suite for suite in SUITES if suite is not CipherSuite.TLS_AES_128_CCM_SHA256
]
IDENTITIES = (ReferenceIdentifier.for_host(HOST),)


@pytest.fixture(scope="module")
def leaves(authority: trustme.CA) -> dict[str, trustme.LeafCert]:
    """A certificate for each kind of signature that TLS 1.2 suites name."""
    return {
        "ECDSA": authority.issue_cert(HOST, key_type=trustme.KeyType.ECDSA),
        "RSA": authority.issue_cert(HOST, key_type=trustme.KeyType.RSA),
    }


@pytest.fixture(scope="module")
def key_pairs(leaves: dict[str, trustme.LeafCert]) -> dict[str, KeyPair]:
    """The same certificates as tlsify takes them."""
    return {
        kind: KeyPair.from_pem(
            b"".join(pem.bytes() for pem in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
        )
        for kind, leaf in leaves.items()
    }


def kind_of(suite: CipherSuite) -> str:
    """Return which certificate a suite needs; TLS 1.3 takes any."""
    return "RSA" if "_RSA_" in suite.name else "ECDSA"


Configs = tuple[ClientConfig, ServerConfig]


@pytest.fixture
def configs(
    request: pytest.FixtureRequest, trust: TrustAnchors, key_pairs: dict[str, KeyPair]
) -> Configs:
    """Configurations that leave one suite to negotiate."""
    suite: CipherSuite = request.param
    versions, aeads = frozenset({suite.version}), (suite.aead,)
    client = ClientConfig(
        server_name=HOST, identities=IDENTITIES, trust=trust, versions=versions, aeads=aeads
    )
    server = ServerConfig(key_pair=key_pairs[kind_of(suite)], versions=versions, aeads=aeads)
    return client, server


def each(suites: list[CipherSuite]) -> pytest.MarkDecorator:
    """Run a test with configurations for each of these suites."""
    return pytest.mark.parametrize("configs", suites, indirect=True, ids=lambda s: s.name)


class SslPeer:
    """Python's own TLS at the other end: another OpenSSL, driven by other code."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        """Start; a client's hello comes with the first step."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else HOST
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=name
        )
        self.finished = False

    def step(self, received: bytes) -> list[bytes]:
        """Feed bytes, go on with the handshake, return the records that are due."""
        self.incoming.write(received)
        if not self.finished:
            try:
                self.tls.do_handshake()
                self.finished = True
            except ssl.SSLWantReadError:
                pass
        return split_records(self.outgoing.read())

    def meet(self, engine: Engine) -> list[bytes]:
        """Finish the handshake with an engine; return the records sent beyond its end."""
        beyond: list[bytes] = []
        while engine.result() is None or not self.finished:
            for record in self.step(engine.output()):
                if engine.result() is None:
                    engine.feed(record)
                else:
                    beyond.append(record)
        return beyond


def ssl_server(leaf: trustme.LeafCert, suite: CipherSuite) -> SslPeer:
    """Python's server with one certificate and protocol version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return SslPeer(_restrict(context, suite), server_side=True)


def ssl_client(authority: trustme.CA, suite: CipherSuite) -> SslPeer:
    """Python's client, which verifies."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return SslPeer(_restrict(context, suite), server_side=False)


def _restrict(context: ssl.SSLContext, suite: CipherSuite) -> ssl.SSLContext:
    number = getattr(ssl.TLSVersion, suite.version.name)
    context.minimum_version = context.maximum_version = number
    if suite.version is TLS12:
        context.set_ciphers(suite.openssl_name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def result_of(engine: Engine) -> Negotiated:
    """Return the outcome of a handshake that is finished."""
    result = engine.result()
    assert result is not None
    return result


def _assert_ssl_takes_what_we_seal(peer: SslPeer, tx: TrafficKeys) -> None:
    for index, payload in enumerate((b"first", b"second" * 100)):
        sealed = seal_record(tx, tx.seq + index, ContentType.application_data, payload)
        peer.incoming.write(sealed)
        assert peer.tls.read(2**14) == payload


def _assert_we_open_what_ssl_seals(peer: SslPeer, rx: TrafficKeys, beyond: list[bytes]) -> None:
    peer.tls.write(b"from ssl")
    records = [*beyond, *split_records(peer.outgoing.read())]
    opened = [open_record(rx, rx.seq + i, record) for i, record in enumerate(records)]
    assert opened[-1] == (ContentType.application_data, b"from ssl")
    assert {kind for kind, _ in opened[:-1]} <= {ContentType.handshake}


# -- every suite


@each(SUITES)
def test_two_engines(configs: Configs) -> None:
    """Both sides agree on everything; what one sends with, the other receives with."""
    pair = EnginePair(*configs)
    outcome, other = pair.run()
    assert outcome.suite is other.suite
    assert {outcome.version} == configs[0].versions
    assert outcome.suite.aead is configs[0].aeads[0]
    first = 0 if outcome.version is TLS13 else 1
    client, server = pair.keys
    for ours, theirs in ((client.tx, server.rx), (server.tx, client.rx)):
        assert (ours.key, ours.iv, ours.seq) == (theirs.key, theirs.iv, first)
        assert theirs.seq == first
    assert client.tx.key != client.rx.key
    assert (client.tx_secret, client.rx_secret) == (server.rx_secret, server.tx_secret)
    assert bool(client.tx_secret) is (outcome.version is TLS13)


@each(SSL_SUITES)
def test_python_ssl_as_server(
    configs: Configs, leaves: dict[str, trustme.LeafCert], request: pytest.FixtureRequest
) -> None:
    """Keys of a client open and seal what Python's ssl seals and opens."""
    suite: CipherSuite = request.node.callspec.params["configs"]
    peer = ssl_server(leaves[kind_of(suite)], suite)
    engine = Engine(configs[0])
    beyond = peer.meet(engine)
    outcome = result_of(engine)
    assert outcome.suite is suite
    assert peer.tls.cipher() is not None
    _assert_ssl_takes_what_we_seal(peer, keys_of(engine).tx)
    _assert_we_open_what_ssl_seals(peer, keys_of(engine).rx, beyond)


@each(SSL_SUITES)
def test_python_ssl_as_client(
    configs: Configs, authority: trustme.CA, request: pytest.FixtureRequest
) -> None:
    """Keys of a server open and seal what Python's ssl seals and opens."""
    suite: CipherSuite = request.node.callspec.params["configs"]
    peer = ssl_client(authority, suite)
    engine = Engine(configs[1])
    beyond = peer.meet(engine)
    outcome = result_of(engine)
    assert outcome.suite is suite
    assert outcome.server_name == HOST
    _assert_ssl_takes_what_we_seal(peer, keys_of(engine).tx)
    _assert_we_open_what_ssl_seals(peer, keys_of(engine).rx, beyond)


@each([CipherSuite.TLS_AES_128_GCM_SHA256])
def test_tickets_are_held_back(configs: Configs, authority: trustme.CA) -> None:
    """A server's tickets stay inside, so that its first record is number 0."""
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    peer, engine = ssl_client(authority, suite), Engine(configs[1])
    peer.meet(engine)
    tx = keys_of(engine).tx
    assert engine.output() == b""
    assert tx.seq == 0
    tickets = split_records(engine.take_tickets())
    assert tickets
    for seq, record in enumerate(tickets):
        content_type, message = open_record(tx, seq, record)
        assert content_type == ContentType.handshake
        # Where they go out, on a relay, no client has to keep what resumes nothing.
        assert decode_new_session_ticket(message[4:]).lifetime == 1
    assert engine.take_tickets() == b""
    _assert_ssl_takes_what_we_seal(peer, tx)


@each([CipherSuite.TLS_AES_128_GCM_SHA256, TLS12_SUITES[0]])
def test_keys_that_nobody_wants(configs: Configs) -> None:
    """A connection that stays in userspace works without them, and keeps no secret outside."""
    client, engine = Engine(configs[0]), Engine(configs[1], keys=False)
    while engine.result() is None or client.result() is None:
        for source, sink in ((client, engine), (engine, client)):
            for record in split_records(source.output()):
                sink.feed(record)
    ours, theirs = result_of(engine), result_of(client)
    assert engine.keys is None
    assert not engine._key_log
    assert any(keys_of(client).rx.key)
    assert ours.suite is theirs.suite
    sender, receiver = Tunnel(engine), Tunnel(client)
    sender.send(b"data")
    assert opened(receiver, emitted(sender)) == b"data"


@each([CipherSuite.TLS_AES_128_GCM_SHA256])
def test_tickets_sent_after_all(configs: Configs, authority: trustme.CA) -> None:
    """A connection that stays in userspace may send them: the next record counts on."""
    peer, engine = ssl_client(authority, CipherSuite.TLS_AES_128_GCM_SHA256), Engine(configs[1])
    peer.meet(engine)
    tx = keys_of(engine).tx
    tickets = split_records(engine.take_tickets())
    peer.incoming.write(b"".join(tickets))
    peer.incoming.write(seal_record(tx, len(tickets), ContentType.application_data, b"x"))
    assert peer.tls.read(10) == b"x"
    assert peer.tls.session is not None
    assert peer.tls.session.has_ticket


@each(TLS12_SUITES)
def test_explicit_nonce_continues(configs: Configs) -> None:
    """The next explicit nonce of each side is that of its Finished plus 1."""
    pair = EnginePair(*configs)
    last: dict[str, bytes] = {}
    moved = True
    while moved:
        moved = False
        ends = ((pair.client, pair.server, "client"), (pair.server, pair.client, "server"))
        for source, sink, name in ends:
            for record in split_records(source.output()):
                last[name] = record
                sink.feed(record)
                moved = True
    for name, engine in (("client", pair.client), ("server", pair.server)):
        outcome = result_of(engine)
        assert last[name][0] == ContentType.handshake
        if outcome.suite.aead.has_explicit_nonce:
            used = int.from_bytes(last[name][HEADER_LENGTH:][:8], "big")
            assert int.from_bytes(keys_of(engine).tx.iv[4:], "big") == (used + 1) % 2**64
        sealed = seal_record(keys_of(engine).tx, 1, ContentType.application_data, b"")
        assert sealed[HEADER_LENGTH:][:8] != last[name][HEADER_LENGTH:][:8]


@each(TLS12_SUITES)
@pytest.mark.parametrize("cuts", [[], [1], [4, 10]])
def test_fragmented_finished(
    configs: Configs, cuts: list[int], request: pytest.FixtureRequest
) -> None:
    """A TLS 1.2 peer may send its Finished in fragments: each takes a sequence number."""
    suite: CipherSuite = request.node.callspec.params["configs"]
    client, server = Engine(configs[0]), Engine(configs[1])
    for record in split_records(client.output()):
        server.feed(record)
    for record in split_records(server.output()):
        client.feed(record)
    *plain, finished = split_records(client.output())
    keys = _client_keys(client, suite)
    _, payload = open_record(keys, 0, finished)
    edges = [0, *cuts, len(payload)]
    for record in plain:
        server.feed(record)
    for seq, (start, end) in enumerate(itertools.pairwise(edges)):
        server.feed(seal_record(keys, seq, ContentType.handshake, payload[start:end]))
    rx = keys_of(server).rx
    assert (rx.key, rx.seq) == (keys.key, len(cuts) + 1)


def _client_keys(client: Engine, suite: CipherSuite) -> TrafficKeys:
    """Derive a client's sending keys in the middle of a TLS 1.2 handshake."""
    connection = client._connection
    assert connection is not None
    master = connection.master_key()
    randoms = connection.client_random(), connection.server_random()
    assert master is not None
    assert randoms[0] is not None
    assert randoms[1] is not None
    block = key_block(suite, master, randoms[0], randoms[1])
    iv = block.client_iv.ljust(12, b"\x77")
    return TrafficKeys(suite, bytearray(block.client_key), bytearray(iv), 0)


@each(TLS12_SUITES[:1])
def test_record_in_front_of_finished(configs: Configs) -> None:
    """Nothing may come between ChangeCipherSpec and Finished, not even what is ignorable."""
    suite = TLS12_SUITES[0]
    client, server = Engine(configs[0]), Engine(configs[1])
    for record in split_records(client.output()):
        server.feed(record)
    for record in split_records(server.output()):
        client.feed(record)
    *plain, _ = split_records(client.output())
    for record in plain:
        server.feed(record)
    warning = bytes([1, 90])  # user_canceled
    with pytest.raises(PeerMisbehaved):
        server.feed(seal_record(_client_keys(client, suite), 0, ContentType.alert, warning))


# -- what is negotiated besides


@pytest.fixture
def client_config(trust: TrustAnchors) -> ClientConfig:
    """A client for the test host."""
    return ClientConfig(server_name=HOST, identities=IDENTITIES, trust=trust)


@pytest.fixture
def server_config(key_pairs: dict[str, KeyPair]) -> ServerConfig:
    """A server for the test host."""
    return ServerConfig(key_pair=key_pairs["ECDSA"])


def test_server_name_and_certificate(
    client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """The server learns the name, the client the certificate."""
    client, server = EnginePair(client_config, server_config).run()
    assert client.server_name == server.server_name == HOST
    assert client.peer_certificate == server_config.key_pair.chain[0]
    assert server.peer_certificate is None
    assert not client.resumed
    assert client.group == server.group != ""
    assert server.max_fragment_length is None


def test_no_server_name(client_config: ClientConfig, server_config: ServerConfig) -> None:
    """A client that sends none is served."""
    client, server = EnginePair(replace(client_config, server_name=None), server_config).run()
    assert client.server_name is None
    assert server.server_name is None


@pytest.mark.parametrize(
    ("offered", "known", "agreed"),
    [
        ((b"h2", b"http/1.1"), (b"http/1.1", b"h2"), b"http/1.1"),
        ((b"h2", b"http/1.1"), (b"h2",), b"h2"),
        ((), (b"h2",), None),
        ((b"h2",), (), None),
    ],
)
def test_alpn(
    client_config: ClientConfig,
    server_config: ServerConfig,
    offered: tuple[bytes, ...],
    known: tuple[bytes, ...],
    agreed: bytes | None,
) -> None:
    """The server's order decides, and having nothing to say is no error."""
    for version in ProtocolVersion:
        client, server = EnginePair(
            replace(client_config, alpn=offered, versions=frozenset({version})),
            replace(server_config, alpn=known),
        ).run()
        assert client.alpn == server.alpn == agreed


@pytest.mark.parametrize("aead", DEFAULT_AEADS)
def test_servers_order_of_ciphers(
    client_config: ClientConfig, server_config: ServerConfig, aead: Aead
) -> None:
    """What the server wants most is taken, whatever the client's order."""
    first = (aead, *(a for a in DEFAULT_AEADS if a is not aead))
    for version in ProtocolVersion:
        versions = frozenset({version})
        client, _ = EnginePair(
            replace(client_config, aeads=tuple(reversed(first)), versions=versions),
            replace(server_config, aeads=first),
        ).run()
        assert client.suite.aead is aead


def test_ciphers_narrowed_by_the_caller(
    client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """What the kernel cannot take is not negotiated, whatever the configuration says."""
    aeads = (Aead.CHACHA20_POLY1305,)
    client, _ = EnginePair(client_config, server_config, aeads).run()
    assert client.suite.aead is Aead.CHACHA20_POLY1305


@pytest.mark.parametrize("version", ProtocolVersion)
def test_version_narrowed(
    client_config: ClientConfig, server_config: ServerConfig, version: ProtocolVersion
) -> None:
    """A configuration's versions are the ones negotiated."""
    client, server = EnginePair(
        client_config, replace(server_config, versions=frozenset({version}))
    ).run()
    assert client.version is server.version is version


def test_records_fed_are_all_that_is_read(
    client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """A client is finished by the server's Finished, with nothing of what follows read."""
    client, server = Engine(client_config), Engine(server_config)
    for record in split_records(client.output()):
        server.feed(record)
    flight = split_records(server.output())
    for record in flight[:-1]:
        client.feed(record)
        assert client.result() is None
    client.feed(flight[-1])
    assert client.result() is not None


# -- misuse


def test_feeding_after_the_end(client_config: ClientConfig, server_config: ServerConfig) -> None:
    """A record fed to a finished engine is our mistake, not the peer's."""
    pair = EnginePair(client_config, server_config)
    pair.run()
    for engine in (pair.client, pair.server):
        with pytest.raises(TlsifyError, match="finished handshake") as caught:
            engine.feed(b"\x17\x03\x03\x00\x01x")
        assert type(caught.value) is TlsifyError


def test_connection_taken_too_early(client_config: ClientConfig) -> None:
    """Only an established connection can be given away."""
    with pytest.raises(TlsifyError, match="not finished"):
        Engine(client_config).take_connection()


def test_invalid_identity(client_config: ClientConfig) -> None:
    """An identifier that fits nothing is found before anything is sent."""
    invalid = ReferenceIdentifier.parse(f"ip:{HOST}")
    with pytest.raises(ConfigError):
        Engine(replace(client_config, identities=(invalid,)))


# -- secrets


@pytest.mark.parametrize("version", ProtocolVersion)
def test_secrets_in_no_text(
    client_config: ClientConfig, server_config: ServerConfig, version: ProtocolVersion
) -> None:
    """No repr of what a handshake leaves shows a key, and no traceback through it."""
    pair = EnginePair(replace(client_config, versions=frozenset({version})), server_config)
    outcome, _ = pair.run()
    client, server = pair.keys
    texts = [repr(outcome), repr(client), str(server), f"{client.tx}", repr(pair.client)]
    record = seal_record(client.tx, client.tx.seq, ContentType.application_data, b"x")
    with pytest.raises(PeerMisbehaved) as caught:
        open_record(server.rx, server.rx.seq + 1, record)
    texts += traceback.format_exception(caught.value)
    secrets = [client.tx.key, client.rx.key, client.tx.iv, client.tx_secret, client.rx_secret]
    for text, secret in itertools.product(texts, filter(None, secrets)):
        assert secret.hex() not in text
        assert repr(bytes(secret))[2:-1] not in text
