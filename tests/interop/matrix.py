"""What is tried: every suite with every peer; which cells are left out, and why."""

from __future__ import annotations

import os
from enum import Enum
from typing import NamedTuple

from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion

# Of each file: several records, and in a guest, where the line-wise programs take seconds, a few.
SIZE = int(os.environ.get("TLSIFY_INTEROP_BYTES", "0")) or (
    2**16 if "TLSIFY_GUEST" in os.environ else 2**18
)

SUITES = tuple(
    sorted(CipherSuite, key=lambda suite: (-suite.version, list(Aead).index(suite.aead)))
)


class Peer(Enum):
    """A program, or Python's own TLS, and the side that it takes; the value is its name."""

    OPENSSL_SERVER = "openssl s_server"
    OPENSSL_CLIENT = "openssl s_client"
    GNUTLS_SERVER = "gnutls-serv"
    GNUTLS_CLIENT = "gnutls-cli"
    CURL = "curl"
    PYTHON_SERVER = "python ssl server"
    PYTHON_CLIENT = "python ssl client"

    @property
    def is_server(self) -> bool:
        """Whether tlsify is the client of this peer."""
        return self in {Peer.OPENSSL_SERVER, Peer.GNUTLS_SERVER, Peer.PYTHON_SERVER}

    @property
    def program(self) -> str | None:
        """What has to be installed."""
        return None if self.value.startswith("python") else self.value.split()[0]


_PYTHON_CCM = (
    "before Python 3.15 the ssl module cannot choose TLS 1.3 suites, and OpenSSL's default has no "
    "CCM among them"
)

LEFT_OUT: dict[tuple[Peer, CipherSuite], str] = {
    (Peer.PYTHON_SERVER, CipherSuite.TLS_AES_128_CCM_SHA256): _PYTHON_CCM,
    (Peer.PYTHON_CLIENT, CipherSuite.TLS_AES_128_CCM_SHA256): _PYTHON_CCM,
}

# GnuTLS's name of each cipher in a priority string.
GNUTLS_CIPHER = {
    Aead.AES_GCM_128: "AES-128-GCM",
    Aead.AES_GCM_256: "AES-256-GCM",
    Aead.AES_CCM_128: "AES-128-CCM",
    Aead.CHACHA20_POLY1305: "CHACHA20-POLY1305",
}


class Cell(NamedTuple):
    """One combination of the table."""

    suite: CipherSuite
    peer: Peer

    def __str__(self) -> str:
        """Read as part of a test's name."""
        return f"{self.peer.value.replace(' ', '-')}-{self.suite.name}"


CELLS = tuple(
    Cell(suite, peer) for suite in SUITES for peer in Peer if (peer, suite) not in LEFT_OUT
)


def needs_rsa(suite: CipherSuite) -> bool:
    """Return whether the server must show an RSA certificate; TLS 1.3 takes any."""
    return "_RSA_" in suite.name


def openssl_options(suite: CipherSuite) -> list[str]:
    """Return the words that leave ``openssl s_server`` or ``s_client`` one suite."""
    if suite.version is ProtocolVersion.TLSv1_3:
        return ["-tls1_3", "-ciphersuites", suite.openssl_name]
    return ["-tls1_2", "-cipher", suite.openssl_name]


def gnutls_options(suite: CipherSuite) -> list[str]:
    """Return the words that leave GnuTLS's programs one suite."""
    version = suite.version.label.replace("v", "")
    cipher = GNUTLS_CIPHER[suite.aead]
    return [f"--priority=NORMAL:-VERS-ALL:+VERS-{version}:-CIPHER-ALL:+{cipher}"]


def curl_options(suite: CipherSuite) -> list[str]:
    """Return the words that leave curl (with OpenSSL) one suite."""
    if suite.version is ProtocolVersion.TLSv1_3:
        return ["--tlsv1.3", "--tls13-ciphers", suite.openssl_name]
    return ["--tlsv1.2", "--tls-max", "1.2", "--ciphers", suite.openssl_name]
