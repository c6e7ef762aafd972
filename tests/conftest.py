"""Fixtures that several test modules share, and what to do about kernels without kTLS."""

from __future__ import annotations

import datetime as dt
import gc
import os
import platform
import resource
import signal
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from hypothesis import settings
from OpenSSL import SSL

from tests import chosen, progress, provision
from tests.agent.harness import Files
from tests.doubles import Lab, ScriptedSocket
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import parse_certificates
from tlsify.credentials.self_signed import make_key_pair
from tlsify.ktls.probe import capabilities, loopback_pair
from tlsify.names import ReferenceIdentifier

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

EXPECT_KTLS = os.environ.get("TLSIFY_EXPECT_KTLS") == "1"
GUEST = os.environ.get("TLSIFY_GUEST", "")
HOST = "example.org"
# A browser needs more than a guest has: it is outside, and only the server within. Guests have
# neither the package acme nor an authority.
collect_ignore = ["acme", "browser"] if GUEST else []
# The same inputs each time, and no limit of time for one; docs/testing.md says how to have others.
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare how to have all endings played: known here, whatever tests are named."""
    parser.addoption("--every-ending", action="store_true", help="all of them, and no sample")


def pytest_configure(config: pytest.Config) -> None:
    """Undo what shells and nohup do to background commands: they, and all below, ignore signals.

    And have peers' programs found in the lane's tree, not where the host may have others. And have
    programs that crash, which are not always ours, leave no core file in the work tree,
    and servers tell no `tlsify status` of this host what they carry.
    """
    gc.disable()  # until all is collected: modules and tests are here to stay
    progress.register(config)
    chosen.register(config)
    provision.prepare()
    os.environ["TLSIFY_ROSTER"] = "off"  # a test that wants one has a place of its own
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was collected: under emulation that takes seconds."""
    gc.freeze()
    gc.enable()


def pytest_report_header() -> list[str]:
    """Return the versions that the run stands on."""
    refusal = capabilities().refusal
    ktls = "kTLS" if refusal is None else f"no kTLS ({refusal.code})"
    openssl = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
    kernel = f"kernel: {platform.release()} ({platform.version()}), {ktls}; {openssl}"
    return [kernel] if provision.refusal() is None else [kernel, str(provision.refusal())]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip kTLS tests where the kernel has none, unless it must have it: then they fail.

    What is about kernels with a second key, or without, has nothing to say about the others.
    """
    refusal = capabilities().refusal
    other = "no_rekey" if capabilities().rekey else "rekey"
    beside = [item for item in items if item.get_closest_marker(other)]
    if beside and refusal is None:
        config.hook.pytest_deselected(items=beside)
        items[:] = [item for item in items if item not in beside]
    if EXPECT_KTLS or refusal is None:
        return
    skip = pytest.mark.skip(reason="this kernel has no kTLS")
    for item in items:
        if item.get_closest_marker("ktls"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()


def issue(authority: trustme.CA, *names: str) -> KeyPair:
    """Issue a certificate for some names."""
    leaf = authority.issue_cert(*names)
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    return KeyPair.from_pem(chain, leaf.private_key_pem.bytes())


def make_crl(
    authority: trustme.CA,
    *revoked: KeyPair,
    until: dt.timedelta = dt.timedelta(days=1),
    signer: trustme.CA | None = None,
) -> bytes:
    """Issue a revocation list, in PEM, for the leaves of some key pairs; by a forger, if wanted."""
    (issuer,) = parse_certificates(authority.cert_pem.bytes(), "the test authority")
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - dt.timedelta(days=9))
        .next_update(now + until)
    )
    for pair in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(pair.chain[0].serial_number)
            .revocation_date(now - dt.timedelta(days=1))
            .build()
        )
    key = load_pem_private_key((signer or authority).private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture(scope="session")
def key_pair(authority: trustme.CA) -> KeyPair:
    """A certificate for example.org, localhost and 127.0.0.1."""
    return issue(authority, HOST, "localhost", "127.0.0.1")


@pytest.fixture(scope="session")
def made() -> KeyPair:
    """A certificate for example.org that vouches for itself."""
    return make_key_pair([HOST])


@pytest.fixture(scope="session")
def trust(authority: trustme.CA) -> TrustAnchors:
    """The authority as a client's only trust anchor."""
    return TrustAnchors(parse_certificates(authority.cert_pem.bytes(), "the test authority"))


@pytest.fixture(scope="session")
def server_config(key_pair: KeyPair) -> ServerConfig:
    """A server that shows the certificate."""
    return ServerConfig(key_pair=key_pair, timeout=60)


@pytest.fixture(scope="session")
def client_config(trust: TrustAnchors) -> ClientConfig:
    """A client that accepts example.org only."""
    return ClientConfig(
        server_name=HOST,
        identities=(ReferenceIdentifier.for_host(HOST),),
        trust=trust,
        timeout=60,
    )


@pytest.fixture(scope="session")
def files(
    authority: trustme.CA, key_pair: KeyPair, tmp_path_factory: pytest.TempPathFactory
) -> Files:
    """The authority, the certificate and its key, in files."""
    return Files.save(tmp_path_factory.mktemp("files"), authority, key_pair)


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """Python's own TLS, as a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected TCP sockets."""
    with loopback_pair() as (ours, theirs):
        ours.settimeout(60)
        theirs.settimeout(60)
        yield ours, theirs


@pytest.fixture
def lab(trust: TrustAnchors, key_pair: KeyPair) -> Iterator[Lab]:
    """Connections that are taken down at the end."""
    with Lab(trust, key_pair) as made:
        yield made


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedSocket]]:
    """Make scripted sockets, and close them."""
    made: list[ScriptedSocket] = []

    def make(*script: tuple[int, bytes] | int | None) -> ScriptedSocket:
        made.append(ScriptedSocket(*script))
        return made[-1]

    yield make
    for sock in made:
        sock.close()
