"""Tests of what is told of a connection."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import HOST, issue
from tests.doubles import OFFLOADS, RELAY, Endpoint
from tlsify.codepoints import CipherSuite
from tlsify.connection.establish import accept, connect
from tlsify.connection.handoff import Offload
from tlsify.passing.metadata import ConnectionInfo
from tlsify.passing.proxy_protocol import (
    SIGNATURE,
    Client,
    Field,
    Header,
    Kind,
    Ssl,
    decode,
    encode,
)

if TYPE_CHECKING:
    import trustme

    from tests.doubles import Lab
    from tlsify.config import KtlsPolicy
    from tlsify.credentials.anchors import TrustAnchors

_SUITE = CipherSuite.TLS_AES_128_GCM_SHA256
PLAIN = ConnectionInfo(
    peer=("192.0.2.1", 1025),
    local=("198.51.100.2", 443),
    server_name=None,
    alpn=None,
    suite=_SUITE,
    group="",
    resumed=False,
    offload=Offload.KERNEL,
    reason=None,
    subject=None,
    common_name=None,
    certificate_hash=None,
    certificate=None,
)
FULL = PLAIN._replace(
    server_name="www.example.org",
    alpn=b"h2",
    group="X25519",
    resumed=True,
    offload=Offload.RELAY,
    reason="no-tls-ulp",
    subject="CN=client,O=Example",
    common_name="client",
    certificate_hash="0123" * 16,
    certificate=b"0" * 700,
)


def _ssl(told: ConnectionInfo) -> Ssl:
    header, _ = decode(told.encode())
    return Ssl.decode(dict(header.fields)[Kind.SSL])


@pytest.mark.parametrize("told", [PLAIN, FULL])
def test_round_trip(told: ConnectionInfo) -> None:
    """What was written is read again."""
    raw = told.encode()
    assert ConnectionInfo.decode(raw + b"state") == (told, len(raw))


def test_fields_as_others_read_them() -> None:
    """A receiver that knows nothing of tlsify finds the fields of proxy-protocol.txt."""
    header, _ = decode(FULL.encode())
    fields = dict(header.fields)
    assert (fields[Kind.ALPN], fields[Kind.AUTHORITY]) == (b"h2", b"www.example.org")
    inside = dict(_ssl(FULL).fields)
    assert inside[Kind.SSL_VERSION] == b"TLSv1.3"
    assert inside[Kind.SSL_CIPHER] == b"TLS_AES_128_GCM_SHA256"
    assert inside[Kind.SSL_CN] == b"client"


def test_flags_of_the_certificate() -> None:
    """Who resumes shows none, but has shown one in the same session; verify is 0 only with one."""
    assert _ssl(PLAIN)[:2] == (Client.SSL, 1)
    assert _ssl(FULL)[:2] == (Client.SSL | Client.CERT_SESS, 0)
    assert _ssl(FULL._replace(resumed=False)).client == 7


def test_too_long() -> None:
    """What nobody would take is left out, and not cut: first the certificate, then its names."""
    told, _ = ConnectionInfo.decode(FULL._replace(certificate=b"0" * 4000).encode())
    assert told == FULL._replace(certificate=None)
    told, _ = ConnectionInfo.decode(FULL._replace(certificate=b"0" * 2**17).encode(2**16))
    assert told == FULL._replace(certificate=None)
    told, _ = ConnectionInfo.decode(FULL._replace(subject="O=" + "x" * 2**17).encode())
    assert told == FULL._replace(certificate=None, subject=None, common_name=None)


def test_negotiated() -> None:
    """A program asks it as it would ask the handshake's own outcome."""
    agreed = FULL.negotiated()
    assert (agreed.alpn, agreed.server_name, agreed.resumed) == (b"h2", "www.example.org", True)
    assert agreed.version.label == FULL.version == "TLSv1.3"


@pytest.mark.parametrize("policy", OFFLOADS)
def test_of_a_connection(
    lab: Lab, authority: trustme.CA, trust: TrustAnchors, policy: KtlsPolicy
) -> None:
    """Everything is told that the handshake found out, and both ends."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    client = dataclasses.replace(
        client, server_name=HOST, alpn=(b"h2",), key_pair=issue(authority, "client.example")
    )
    server = dataclasses.replace(server, alpn=(b"h2",), client_trust=trust)
    other = Endpoint(lambda: accept(theirs, server, policy))
    name = ours.getsockname()
    lab.keep(connect(ours, client, policy))
    handed = lab.keep(other.result())
    told = ConnectionInfo.of(handed)
    assert (told.peer, told.alpn, told.server_name) == (name, b"h2", HOST)
    assert told.local != told.peer
    assert told.offload is handed.offload
    assert (told.reason is None) == (policy is not RELAY)
    assert told.certificate_hash == handed.negotiated.peer_hash
    assert told.certificate == handed.negotiated.certificate
    assert told.subject == handed.negotiated.peer_subject
    assert ConnectionInfo.decode(told.encode(2**16))[0] == told


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (Field(Kind.SSL, Ssl(Client.SSL, 0, ()).encode()),),
        (Field(Kind.SSL, Ssl(Client.SSL, 0, (Field(Kind.SSL_CIPHER, b"NULL"),)).encode()),),
        (
            Field(Kind.SSL, Ssl(Client.SSL, 0, (Field(Kind.SSL_CIPHER, b"\xff"),)).encode()),
            Field(Kind.OFFLOAD, b"kernel"),
        ),
        (
            Field(
                Kind.SSL,
                Ssl(
                    Client.SSL, 0, (Field(Kind.SSL_CIPHER, _SUITE.openssl_name.encode()),)
                ).encode(),
            ),
            Field(Kind.OFFLOAD, b"card"),
        ),
    ],
)
def test_headers_of_others(fields: tuple[Field, ...]) -> None:
    """A header may be right, and about nothing of ours."""
    with pytest.raises(ValueError, match=r".+"):
        ConnectionInfo.decode(encode(Header(None, None, fields)))


@given(raw=st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(SIGNATURE.__add__)))
def test_any_bytes(raw: bytes) -> None:
    """Whatever comes is refused, or a description."""
    try:
        ConnectionInfo.decode(raw)
    except ValueError:
        return


@given(
    at=st.integers(0, len(FULL.encode()) - 1),
    byte=st.integers(0, 255),
)
def test_one_byte_changed(at: int, byte: int) -> None:
    """So is one that was damaged."""
    raw = bytearray(FULL.encode())
    raw[at] = byte
    try:
        ConnectionInfo.decode(raw)
    except ValueError:
        return
