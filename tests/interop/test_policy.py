"""Tests of whom we accept, and what the others hear, with Python's ssl and openssl as peers."""

from __future__ import annotations

import datetime as dt
import re
import socket
import ssl
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import trustme
from OpenSSL import crypto

from tests.conftest import issue, make_crl
from tests.doubles import RELAY, VERSIONS, Endpoint
from tests.interop.peers import LISTENING, accepted, address, listening
from tests.interop.programs import PATIENCE, TIMEOUT, Program, require
from tlsify.codepoints import AlertDescription, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.connection.establish import accept, connect
from tlsify.connection.stream import TLSSocket
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import parse_crls
from tlsify.errors import HandshakeError, IdentityError
from tlsify.names import ReferenceIdentifier
from tlsify.tls.certificates import key_hash

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.interop.peers import Site

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

by_version = pytest.mark.parametrize("version", VERSIONS)
_NUMBERS = {
    ProtocolVersion.TLSv1_2: ssl.TLSVersion.TLSv1_2,
    ProtocolVersion.TLSv1_3: ssl.TLSVersion.TLSv1_3,
}


@dataclass(frozen=True)
class Refusal:
    """A peer that must be refused.

    Attributes:
        alert: what we say; None if that depends on the version.
        reason: what Python's ssl makes of it.
    """

    alert: AlertDescription | None
    reason: str


@dataclass(frozen=True)
class Files:
    """A certificate and its key, as programs want them."""

    chain: Path
    key: Path
    pair: KeyPair


def _files(folder: Path, leaf: trustme.LeafCert) -> Files:
    chain, key = folder / "client.pem", folder / "client.key"
    leaf.cert_chain_pems[0].write_to_path(chain)
    leaf.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    return Files(chain, key, KeyPair.load(chain, key))


@pytest.fixture
def ours(site: Site) -> ClientConfig:
    """A client for the peer on this host."""
    return ClientConfig(
        server_name="localhost",
        identities=(ReferenceIdentifier.for_host("localhost"),),
        trust=site.trust,
        timeout=PATIENCE,
    )


@pytest.fixture
def pki(site: Site, authority: trustme.CA) -> tuple[Site, trustme.CA]:
    """What is on this site, and who has certified it."""
    return site, authority


# -- our client refuses a server


def _python_server(site: Site, version: ProtocolVersion) -> tuple[int, Endpoint[str]]:
    """Serve one connection; return the port, and what the server has to say of its client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = _NUMBERS[version]
    context.load_cert_chain(site.ec.chain, site.ec.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> str:
        with listener, accepted(listener) as conn:
            conn.settimeout(PATIENCE)
            try:
                with context.wrap_socket(conn, server_side=True) as stream:
                    return f"got {stream.recv(100)!r}"
            except ssl.SSLError as exc:
                return exc.reason or ""

    return listener.getsockname()[1], Endpoint(serve)


def _pin(config: ClientConfig, *_: object) -> ClientConfig:
    return replace(config, pins=(bytes(32),))


def _pin_alone(config: ClientConfig, *_: object) -> ClientConfig:
    return replace(config, pins=(bytes(32),), verify=False)


def _revoke(config: ClientConfig, site: Site, authority: trustme.CA) -> ClientConfig:
    return replace(config, crls=parse_crls(make_crl(authority, site.ec.pair), "it"))


def _outdate(config: ClientConfig, _: Site, authority: trustme.CA) -> ClientConfig:
    old = make_crl(authority, until=-dt.timedelta(days=1))
    return replace(config, crls=parse_crls(old, "it"))


@by_version
@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (
            _pin,
            Refusal(AlertDescription.certificate_unknown, "SSLV3_ALERT_CERTIFICATE_UNKNOWN"),
        ),
        (
            _pin_alone,
            Refusal(AlertDescription.certificate_unknown, "SSLV3_ALERT_CERTIFICATE_UNKNOWN"),
        ),
        (_revoke, Refusal(AlertDescription.certificate_revoked, "SSLV3_ALERT_CERTIFICATE_REVOKED")),
        (
            _outdate,
            Refusal(AlertDescription.certificate_expired, "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        ),
    ],
    ids=["wrong pin", "wrong pin, unverified", "revoked", "list has expired"],
)
def test_server_that_is_refused(
    version: ProtocolVersion,
    pki: tuple[Site, trustme.CA],
    ours: ClientConfig,
    change: Callable[[ClientConfig, Site, trustme.CA], ClientConfig],
    refusal: Refusal,
) -> None:
    """It hears why."""
    port, server = _python_server(pki[0], version)
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with pytest.raises(IdentityError) as caught:
        connect(sock, change(ours, *pki), RELAY)
    assert caught.value.alert is refusal.alert
    assert server.result(PATIENCE) == refusal.reason


@by_version
def test_server_with_everything_right(
    version: ProtocolVersion, site: Site, ours: ClientConfig, authority: trustme.CA
) -> None:
    """Pin, path, name and revocation list together."""
    config = replace(
        ours,
        pins=(key_hash(crypto.X509.from_cryptography(site.ec.pair.chain[0])),),
        crls=parse_crls(make_crl(authority), "it"),
    )
    port, server = _python_server(site, version)
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with TLSSocket(connect(sock, config, RELAY)) as stream:
        stream.sendall(b"hello")
        assert server.result(PATIENCE) == "got b'hello'"


# -- our server and its clients' certificates


def _python_client(port: int, site: Site, version: ProtocolVersion, files: Files | None) -> str:
    """Connect once; return what the client has to say of its server."""
    context = ssl.create_default_context(cafile=site.authority)
    context.minimum_version = context.maximum_version = _NUMBERS[version]
    if files is not None:
        context.load_cert_chain(files.chain, files.key)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as conn:
        try:
            with context.wrap_socket(conn, server_hostname="localhost") as stream:
                return f"got {stream.recv(100)!r}"
        except ssl.SSLError as exc:
            return exc.reason or ""


def _none(_: Path, __: trustme.CA) -> None:
    return None


def _right(folder: Path, authority: trustme.CA) -> Files:
    return _files(folder, authority.issue_cert("client.example"))


def _wrong_authority(folder: Path, _: trustme.CA) -> Files:
    return _files(folder, trustme.CA().issue_cert("client.example"))


def _wrong_name(folder: Path, authority: trustme.CA) -> Files:
    return _files(folder, authority.issue_cert("other.example"))


def _expired(folder: Path, authority: trustme.CA) -> Files:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    return _files(folder, authority.issue_cert("client.example", not_after=yesterday))


def _choosy(site: Site, version: ProtocolVersion) -> ServerConfig:
    return ServerConfig(
        key_pair=site.ec.pair,
        client_trust=site.trust,
        client_required=True,
        client_identities=(ReferenceIdentifier.parse("dns:client.example"),),
        versions=frozenset({version}),
        timeout=PATIENCE,
    )


@by_version
@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (
            _none,
            Refusal(None, "TLSV13_ALERT_CERTIFICATE_REQUIRED|SSLV3_ALERT_HANDSHAKE_FAILURE"),
        ),
        (_wrong_authority, Refusal(AlertDescription.unknown_ca, "TLSV1_ALERT_UNKNOWN_CA")),
        (_wrong_name, Refusal(AlertDescription.bad_certificate, "SSLV3_ALERT_BAD_CERTIFICATE")),
        (
            _expired,
            Refusal(AlertDescription.certificate_expired, "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        ),
    ],
    ids=["none", "of another authority", "of somebody else", "expired"],
)
def test_client_that_is_refused(
    version: ProtocolVersion,
    pki: tuple[Site, trustme.CA],
    tmp_path: Path,
    make: Callable[[Path, trustme.CA], Files | None],
    refusal: Refusal,
) -> None:
    """It hears why; in TLS 1.3 that comes after its own handshake is done."""
    site, authority = pki
    files = make(tmp_path, authority)
    with listening() as listener:
        port = listener.getsockname()[1]
        client = Endpoint(lambda: _python_client(port, site, version, files))
        with pytest.raises(IdentityError) as caught:
            accept(accepted(listener), _choosy(site, version), RELAY)
        assert refusal.alert in {None, caught.value.alert}
        assert re.fullmatch(refusal.reason, client.result(PATIENCE))


@by_version
def test_client_whose_certificate_is_revoked(
    version: ProtocolVersion, site: Site, authority: trustme.CA, tmp_path: Path
) -> None:
    """Revocation lists are for clients too."""
    files = _right(tmp_path, authority)
    config = replace(_choosy(site, version), crls=parse_crls(make_crl(authority, files.pair), "it"))
    with listening() as listener:
        port = listener.getsockname()[1]
        client = Endpoint(lambda: _python_client(port, site, version, files))
        with pytest.raises(IdentityError):
            accept(accepted(listener), config, RELAY)
        assert client.result(PATIENCE) == "SSLV3_ALERT_CERTIFICATE_REVOKED"


@by_version
def test_client_that_is_welcome(
    version: ProtocolVersion, site: Site, authority: trustme.CA, tmp_path: Path
) -> None:
    """The server can tell who it is."""
    files = _right(tmp_path, authority)
    with listening() as listener:
        port = listener.getsockname()[1]
        client = Endpoint(lambda: _python_client(port, site, version, files))
        with TLSSocket(accept(accepted(listener), _choosy(site, version), RELAY)) as stream:
            outcome = stream.handoff.negotiated
            assert outcome.peer_certificate == files.pair.chain[0]
            assert outcome.server_name == "localhost"
            stream.sendall(b"welcome")
            assert client.result(PATIENCE) == "got b'welcome'"


# -- openssl, which shows what it is asked for


@by_version
def test_openssls_client_is_told_whose_certificates_count(
    version: ProtocolVersion, site: Site, authority: trustme.CA, tmp_path: Path
) -> None:
    """The server names its authorities, and takes the certificate of s_client."""
    require("openssl")
    files = _right(tmp_path, authority)
    with listening() as listener:
        words = ["openssl", "s_client", "-connect", address(listener), "-servername", "localhost"]
        words += ["-CAfile", str(site.authority), "-cert", str(files.chain)]
        words += ["-key", str(files.key)]
        with (
            Program(words) as client,
            TLSSocket(accept(accepted(listener), _choosy(site, version), RELAY)) as stream,
        ):
            assert stream.handoff.negotiated.peer_certificate == files.pair.chain[0]
            said = client.wait_for(b"Acceptable client certificate CA names\n(.*)\n")
            assert b"trustme" in said[1]
            stream.unwrap()


def _dial(server: Program) -> socket.socket:
    host, _, port = server.wait_for(LISTENING)[1].decode().partition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


@by_version
def test_our_certificate_is_taken_by_openssls_server(
    version: ProtocolVersion, site: Site, ours: ClientConfig, authority: trustme.CA
) -> None:
    """s_server that insists on a certificate gets it, and the name in it."""
    require("openssl")
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1"]
    words += ["-cert", str(site.ec.chain), "-key", str(site.ec.key)]
    words += ["-Verify", "1", "-verify_return_error", "-CAfile", str(site.authority)]
    pair = issue(authority, "client.example")
    config = replace(ours, key_pair=pair, versions=frozenset({version}))
    with Program(words) as server:
        sock = _dial(server)
        with TLSSocket(connect(sock, config, RELAY)) as stream:
            server.wait_for(b"Client certificate\n")
            stream.unwrap()
    with Program(words) as server:
        sock = _dial(server)
        with pytest.raises(HandshakeError) as caught:  # noqa: SIM117 - only the last one may
            with TLSSocket(connect(sock, replace(config, key_pair=None), RELAY)) as stream:
                stream.recv(1)
        expected = (
            AlertDescription.certificate_required
            if version is ProtocolVersion.TLSv1_3
            else AlertDescription.handshake_failure
        )
        assert caught.value.alert is expected
