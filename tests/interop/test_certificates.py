"""Several certificates, kinds of key, OCSP and groups, as other implementations see them."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.certificates import DAY, certify, respond, save
from tests.conftest import issue, make_crl
from tests.doubles import OFFLOADS, Endpoint
from tests.interop.programs import TIMEOUT, require
from tlsify.config import KtlsPolicy, ServerConfig
from tlsify.connection.establish import accept
from tlsify.connection.stream import TLSSocket
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.parse import parse_certificates, parse_crls
from tlsify.errors import TlsifyError
from tlsify.system.listening import listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tlsify.credentials.key_pair import KeyPair

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]
NAMES = ("localhost", "a.example")
ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Site:
    """Certificates of one authority.

    Attributes:
        anchor: its own certificate.
    """

    def __init__(self, folder: Path) -> None:
        """Issue them."""
        root = trustme.CA()
        self.authority = root.create_child_ca()
        self.anchor = folder / "ca.pem"
        root.cert_pem.write_to_path(self.anchor)
        self.ec = self._respond(certify(self.authority, *NAMES))
        self.rsa = self._respond(certify(self.authority, *NAMES, kind="rsa"))
        self.other = certify(self.authority, "*.other.example", kind="ed25519")
        self.config = ServerConfig(
            key_pair=self.ec, more_key_pairs=(self.rsa, self.other), resumption=True, timeout=60
        )

    def _respond(self, pair: KeyPair) -> KeyPair:
        return replace(pair, ocsp=respond(self.authority, pair))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Made once."""
    return Site(tmp_path_factory.mktemp("certificates"))


@contextmanager
def serving(config: ServerConfig, policy: KtlsPolicy, count: int = 1) -> Iterator[int]:
    """Answer some connections with a short page, in a thread; return the port."""
    with listen("127.0.0.1", 0) as listener:
        listener.settimeout(60)

        def serve() -> None:
            for _ in range(count):
                sock, _ = listener.accept()
                sock.settimeout(None)
                try:
                    with TLSSocket(accept(sock, config, policy)) as stream:
                        stream.settimeout(60)
                        stream.recv(2**12)
                        stream.sendall(ANSWER)
                except (TlsifyError, OSError):
                    continue

        serving = Endpoint(serve)
        yield listener.getsockname()[1]
        serving.result()


def s_client(port: int, site: Site, *words: str) -> str:
    """Connect with OpenSSL's command; return what it prints."""
    require("openssl")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(site.anchor)]
    done = subprocess.run(
        [*command, *words], input=b"x\n", capture_output=True, timeout=60, check=False
    )
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_kinds_of_key(site: Site, policy: KtlsPolicy, version: str) -> None:
    """OpenSSL's command gets the certificate that it can verify, and its response, stapled."""
    for algorithms, kind, pair in (
        ("ECDSA+SHA256", "ec", site.ec),
        ("RSA-PSS+SHA256:RSA+SHA256", "rsa", site.rsa),
    ):
        with serving(site.config, policy) as port:
            words = ("-servername", "a.example", "-status", "-sigalgs", algorithms, "-showcerts")
            said = s_client(port, site, version, *words)
        assert re.search(rf"CN ?= ?{kind} localhost", said)  # OpenSSL 3.2 spells it without spaces
        assert "Verify return code: 0 (ok)" in said
        assert "OCSP Response Status: successful" in said
        assert f"{pair.chain[0].serial_number:X}" in said.upper()
        assert said.count("BEGIN CERTIFICATE") == 2  # its own chain, and not the other's


def test_name_of_another(site: Site) -> None:
    """A wildcard's certificate, and no response where there is none."""
    with serving(site.config, KtlsPolicy()) as port:
        said = s_client(port, site, "-servername", "Www.Other.Example", "-status")
    assert re.search(r"CN ?= ?ed25519 \*\.other\.example", said)
    assert "OCSP response: no response sent" in said


def test_stale_response(site: Site) -> None:
    """It is served without."""
    stale = respond(site.authority, site.ec, begin=-2 * DAY, end=-DAY)
    with serving(ServerConfig(key_pair=replace(site.ec, ocsp=stale)), KtlsPolicy()) as port:
        said = s_client(port, site, "-servername", "a.example", "-status")
    assert "OCSP response: no response sent" in said
    assert "Verify return code: 0 (ok)" in said


def test_hello_retry_request(site: Site) -> None:
    """A client whose first share is of another group gets there in a second round."""
    config = replace(site.config, groups=("P-384", "P-256"))
    with serving(config, KtlsPolicy()) as port:
        said = s_client(
            port, site, "-servername", "a.example", "-tls1_3", "-groups", "X25519:P-384"
        )
    assert "Temp Key: ECDH, secp384r1, 384 bits" in said
    assert "Verify return code: 0 (ok)" in said


@pytest.mark.parametrize("policy", OFFLOADS)
def test_curl(site: Site, policy: KtlsPolicy) -> None:
    """It verifies the name, and with --cert-status the response."""
    require("curl")
    with serving(site.config, policy) as port:
        words = ["--resolve", f"a.example:{port}:127.0.0.1", "--cacert", str(site.anchor)]
        done = subprocess.run(
            ["curl", "-sS", "--cert-status", *words, f"https://a.example:{port}/"],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert (done.stderr, done.stdout) == (b"", b"hello")


def _ask(
    context: ssl.SSLContext, port: int, name: str, session: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession | None]:
    with (
        socket.create_connection(("127.0.0.1", port), 10) as sock,
        context.wrap_socket(sock, server_hostname=name, session=session) as stream,
    ):
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert stream.recv(2**12) == ANSWER
        return bool(stream.session_reused), stream.session


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_python_resumes_by_name(site: Site, policy: KtlsPolicy, version: ssl.TLSVersion) -> None:
    """Python's ssl resumes under the name of the first connection, and under no other."""
    context = ssl.create_default_context(cafile=site.anchor)
    context.minimum_version = context.maximum_version = version
    with serving(replace(site.config), policy, count=3) as port:
        resumed, session = _ask(context, port, "a.example")
        assert not resumed
        assert _ask(context, port, "a.example", session)[0]
        assert not _ask(context, port, "localhost", session)[0]


@pytest.mark.parametrize("name", NAMES)
def test_clients_certificates_by_name(site: Site, name: str, tmp_path: Path) -> None:
    """A client's certificate is asked for, and its revocation heeded, under every name."""
    authority = trustme.CA()
    good, revoked = issue(authority, "good.example"), issue(authority, "revoked.example")
    config = replace(
        site.config,
        client_trust=TrustAnchors(parse_certificates(authority.cert_pem.bytes(), "it")),
        client_required=True,
        crls=parse_crls(make_crl(authority, revoked), "it"),
    )
    for pair, accepted in ((good, True), (revoked, False)):
        save(pair, tmp_path / "cert.pem", tmp_path / "key.pem")
        context = ssl.create_default_context(cafile=site.anchor)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        with serving(config, KtlsPolicy()) as port:
            if accepted:
                _ask(context, port, name)
            else:
                with pytest.raises((ssl.SSLError, AssertionError, ConnectionError)):
                    _ask(context, port, name)
