"""What servers show: a certificate of each kind of key, as files in the forms that they want."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Credentials:
    """Files, all PEM.

    Attributes:
        certificate: the leaf; its issuer is `authority`.
        key: its private key.
        both: key and certificate in one, for haproxy and hitch.
        authority: the trust anchor.
    """

    certificate: Path
    key: Path
    both: Path
    authority: Path


def make(folder: Path, kind: str) -> Credentials:
    """Issue a certificate for localhost.

    Args:
        folder: where the files go.
        kind: "ECDSA" (P-256) or "RSA" (2048 bits).
    """
    made = Credentials(*(folder / f"{kind}.{name}" for name in ("crt", "key", "both", "ca")))
    with _one_at_a_time:
        if made.both.exists():
            return made
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType[kind])
        certificate, key = leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
        made.authority.write_bytes(authority.cert_pem.bytes())
        made.certificate.write_bytes(certificate)
        made.key.write_bytes(key)
        made.both.write_bytes(key + certificate)
    return made
