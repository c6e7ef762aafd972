"""Tests of schedule."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tlsify.codepoints import CipherSuite, ContentType, ProtocolVersion
from tlsify.keys import IV_LENGTH
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.schedule import (
    expand_label,
    key_block,
    next_secret,
    prf,
    tls12_keys,
    traffic_keys,
)

SUITE = CipherSuite.TLS_AES_128_GCM_SHA256
TLS12 = [suite for suite in CipherSuite if suite.version is ProtocolVersion.TLSv1_2]
TLS13 = [suite for suite in CipherSuite if suite.version is ProtocolVersion.TLSv1_3]

# RFC 8448 3: (traffic secret, write key, write iv).
TRACE = {
    "client handshake": (
        "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21",
        "dbfaa693d1762c5b666af5d950258d01",
        "5bd3c71b836e0b76bb73265f",
    ),
    "server handshake": (
        "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38",
        "3fce516009c21727d0f2e4e86ee403bc",
        "5d313eb2671276ee13000b30",
    ),
    "client application": (
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
        "17422dda596ed5d9acd890e3c63f5051",
        "5b78923dee08579033e523d9",
    ),
    "server application": (
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
        "9f02283b6c9c07efc26bb9f2ac92e356",
        "cf782b88dd83549aadf1e984",
    ),
}
# The client's two records under its application key: 50 bytes of data, then close_notify.
DATA_RECORD = (
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e"
    "2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4"
)
ALERT_RECORD = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"


@pytest.mark.parametrize("name", TRACE)
def test_rfc_8448_traffic_keys(name: str) -> None:
    """Each traffic secret of the trace gives the key and iv that are printed there."""
    secret, key, iv = map(bytes.fromhex, TRACE[name])
    keys = traffic_keys(SUITE, secret)
    assert (bytes(keys.key), bytes(keys.iv), keys.seq) == (key, iv, 0)


@pytest.mark.parametrize(
    ("seq", "record", "content_type", "payload"),
    [
        (0, DATA_RECORD, ContentType.application_data, bytes(range(50))),
        (1, ALERT_RECORD, ContentType.alert, b"\x01\x00"),
    ],
)
def test_rfc_8448_records(seq: int, record: str, content_type: ContentType, payload: bytes) -> None:
    """The client's records of the trace open, and seal again to the same bytes."""
    keys = traffic_keys(SUITE, bytes.fromhex(TRACE["client application"][0]))
    assert open_record(keys, seq, bytes.fromhex(record)) == (content_type, payload)
    assert seal_record(keys, seq, content_type, payload).hex() == record


@pytest.mark.parametrize("suite", TLS13)
def test_expand_label_is_hkdf(suite: CipherSuite) -> None:
    """One block of HKDF-Expand, written out by hand, is what the library computes."""
    secret = bytes(range(hashlib.new(suite.hash_name).digest_size))
    info = b"\x00\x10" + b"\x09tls13 key" + b"\x00"
    expected = hmac.digest(secret, info + b"\x01", suite.hash_name)[:16]
    assert expand_label(secret, b"key", 16, suite.hash_name) == expected


@pytest.mark.parametrize("suite", TLS13)
def test_next_secret(suite: CipherSuite) -> None:
    """Generations differ in everything and keep their length (RFC 8446 7.2)."""
    first = bytes(hashlib.new(suite.hash_name).digest_size)
    second = next_secret(suite, first)
    info = len(first).to_bytes(2, "big") + b"\x11tls13 traffic upd\x00"
    assert second == hmac.digest(first, info + b"\x01", suite.hash_name)
    assert traffic_keys(suite, first).key != traffic_keys(suite, second).key


@given(st.sampled_from(TLS13), st.binary(min_size=48, max_size=48), st.integers(0, 2**64 - 1))
def test_any_secret(suite: CipherSuite, secret: bytes, seq: int) -> None:
    """Every secret gives keys of the suite's lengths, starting where it was told."""
    keys = traffic_keys(suite, secret[: hashlib.new(suite.hash_name).digest_size], seq)
    assert (len(keys.key), len(keys.iv), keys.seq) == (suite.aead.key_length, IV_LENGTH, seq)


def test_prf_known_answer() -> None:
    """The published test vector for the SHA-256 PRF comes out."""
    output = prf(
        bytes.fromhex("9bbe436ba940f017b17652849a71db35"),
        b"test label",
        bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c"),
        100,
        "sha256",
    )
    assert output.hex().startswith(
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a"
    )


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 200))
def test_prf_is_a_stream(secret: bytes, seed: bytes, length: int) -> None:
    """A shorter output is the beginning of a longer one."""
    whole = prf(secret, b"label", seed, 200, "sha384")
    assert prf(secret, b"label", seed, length, "sha384") == whole[:length]


def test_prf_agrees_with_openssl() -> None:
    """Keying material exported by a real TLS 1.2 connection is our PRF of its master secret."""
    client, server = _established()
    master, label = client.master_key(), b"EXPERIMENTAL tlsify"
    randoms = (client.client_random(), client.server_random())
    assert master is not None
    assert randoms[0] is not None
    assert randoms[1] is not None
    ours = prf(master, label, randoms[0] + randoms[1], 64, "sha384")
    assert ours == server.export_keying_material(label, 64)


def _established() -> tuple[SSL.Connection, SSL.Connection]:
    """Two anonymous OpenSSL connections, finished with TLS 1.2 AES-256-GCM."""
    ends = []
    for _ in range(2):
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(b"ADH-AES256-GCM-SHA384:@SECLEVEL=0")
        context.set_options(SSL.OP_NO_TICKET)
        ends.append(SSL.Connection(context, None))
    client, server = ends
    client.set_connect_state()
    server.set_accept_state()
    _shake(client)
    _carry(client, server)
    _shake(server)
    _carry(server, client)
    _shake(client)
    _carry(client, server)
    _shake(server)
    _carry(server, client)
    _shake(client)
    return client, server


def _shake(connection: SSL.Connection) -> None:
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return


def _carry(source: SSL.Connection, sink: SSL.Connection) -> None:
    sink.bio_write(source.bio_read(2**16))


def test_key_block_opens_openssls_records() -> None:
    """The key block of a real connection opens what OpenSSL seals, in both directions."""
    client, server = _established()
    suite = CipherSuite.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384  # the same record protection
    master = client.master_key()
    randoms = (client.client_random(), client.server_random())
    assert master is not None
    assert randoms[0] is not None
    assert randoms[1] is not None
    block = key_block(suite, master, randoms[0], randoms[1])
    for sender, key, iv in (
        (client, block.client_key, block.client_iv),
        (server, block.server_key, block.server_iv),
    ):
        sender.send(b"hello")
        keys = tls12_keys(suite, key, iv, bytes(13))
        opened = open_record(keys, 1, sender.bio_read(2**16))
        assert opened == (ContentType.application_data, b"hello")


@pytest.mark.parametrize("suite", TLS12)
def test_key_block_layout(suite: CipherSuite) -> None:
    """Keys, then fixed IVs, client first, without gaps; ChaCha20-Poly1305 has whole IVs."""
    client_random, server_random, master = b"c" * 32, b"s" * 32, b"m" * 48
    block = key_block(suite, master, client_random, server_random)
    assert {len(block.client_key), len(block.server_key)} == {suite.aead.key_length}
    fixed = 4 if suite.aead.has_explicit_nonce else 12
    assert {len(block.client_iv), len(block.server_iv)} == {fixed}
    size = 2 * (suite.aead.key_length + fixed)
    seed = server_random + client_random
    assert b"".join(block) == prf(master, b"key expansion", seed, size, suite.hash_name)


@given(st.sampled_from(TLS12), st.binary(min_size=13, max_size=40))
def test_explicit_nonce_counts_on(suite: CipherSuite, last_record: bytes) -> None:
    """The next explicit nonce is the last one plus 1, modulo 2**64; ChaCha20's IV is fixed."""
    fixed = b"f" * (4 if suite.aead.has_explicit_nonce else 12)
    keys = tls12_keys(suite, bytes(suite.aead.key_length), fixed, last_record)
    assert keys.iv[: len(fixed)] == fixed
    if suite.aead.has_explicit_nonce:
        used = int.from_bytes(last_record[5:13], "big")
        assert int.from_bytes(keys.iv[4:], "big") == (used + 1) % 2**64


def test_explicit_nonce_at_its_end() -> None:
    """After the last explicit nonce comes zero, in eight bytes."""
    suite = CipherSuite.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    keys = tls12_keys(suite, bytes(16), b"salt", bytes(5) + b"\xff" * 8)
    assert keys.iv == b"salt" + bytes(8)
