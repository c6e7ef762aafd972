"""Certificates, good and bad, and contexts for peers made of Python's ssl."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tlsify.credentials.self_signed import make_key_pair
from tlsify.ktls.probe import capabilities

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("localhost", "127.0.0.1", "::1")
_NOW = datetime.now(UTC)
_DAY = timedelta(days=1)


class Credentials(NamedTuple):
    """Files with a certificate and its key."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """Make a server of it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Pki(NamedTuple):
    """What the tests' authority has issued.

    Attributes:
        authority: the file for --ca.
        good: for localhost.
        bad: for the same, and each in its own way unacceptable.
    """

    authority: Path
    good: Credentials
    bad: dict[str, Credentials]

    def client_context(self) -> ssl.SSLContext:
        """Make a client that trusts the authority."""
        return ssl.create_default_context(cafile=self.authority)


def _save(folder: Path, name: str, leaf: trustme.LeafCert) -> Credentials:
    saved = Credentials(folder / f"{name}.pem", folder / f"{name}.key")
    saved.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(saved.key)
    saved.key.chmod(0o600)
    return saved


def _save_self_signed(folder: Path) -> Credentials:
    made = make_key_pair(list(NAMES))
    saved = Credentials(folder / "self-signed.pem", folder / "self-signed.key")
    saved.certificate.write_bytes(made.certificate_pem())
    saved.key.write_bytes(made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    saved.key.chmod(0o600)
    return saved


@pytest.fixture(scope="session")
def pki(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Everything that has a certificate."""
    folder = tmp_path_factory.mktemp("pki")
    anchor = folder / "authority.pem"
    authority.cert_pem.write_to_path(anchor)
    issue = authority.issue_cert
    expired = issue(*NAMES, not_before=_NOW - 9 * _DAY, not_after=_NOW - _DAY)
    early = issue(*NAMES, not_before=_NOW + _DAY, not_after=_NOW + 9 * _DAY)
    bad = {
        "wrong-name": issue("elsewhere.example"),
        "expired": expired,
        "not-yet-valid": early,
        "wrong-authority": trustme.CA().issue_cert(*NAMES),
    }
    saved = {name: _save(folder, name, leaf) for name, leaf in bad.items()}
    saved["self-signed"] = _save_self_signed(folder)
    return Pki(anchor, _save(folder, "good", issue(*NAMES)), saved)


@pytest.fixture(scope="session")
def lacks_ktls() -> None:
    """Skip where the kernel has what the test needs it not to have."""
    if capabilities().refusal is None:
        pytest.skip("this kernel has kTLS")
