"""KeyPair: a certificate chain with its private key, as it was read from PEM."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from cryptography.exceptions import UnsupportedAlgorithm

from tlsify.credentials.ocsp import objection
from tlsify.credentials.parse import encoded, parse_certificates, parse_key
from tlsify.credentials.presented import read
from tlsify.credentials.reading import CERTIFICATE, PRIVATE_KEY, read_file
from tlsify.errors import ConfigError
from tlsify.names import IdKind

if TYPE_CHECKING:
    from _typeshed import StrPath
    from cryptography import x509

    from tlsify.credentials.parse import PrivateKey


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KeyPair:
    """A certificate chain, leaf first, and the leaf's private key.

    Attributes:
        chain: the certificates for the peer, leaf first.
        key: the first certificate's.
        ocsp: an OCSP response in DER, stapled for as long as it is good (`ocsp`).
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    ocsp: bytes | None = None

    def __repr__(self) -> str:
        """Show the subject only."""
        return f"KeyPair({self.subject!r})"

    def certificate_pem(self) -> bytes:
        """Return the chain in PEM; the key stays here."""
        return b"".join(encoded(certificate, pem=True) for certificate in self.chain)

    @property
    def names(self) -> tuple[str, ...]:
        """DNS names, in lower case, and addresses that the certificate is for.

        The common name is none of them (RFC 9525 2).
        """
        found = read(encoded(self.chain[0]))
        return tuple(x.text.lower() for x in found if x.kind in {IdKind.DNS, IdKind.IP})

    @property
    def subject(self) -> str:
        """Subject of the certificate, for messages."""
        try:
            return self.chain[0].subject.rfc4514_string()
        except ValueError:
            return "an unreadable subject"

    @property
    def not_after(self) -> datetime:
        """The certificate's last second, in UTC."""
        return self.chain[0].not_valid_after_utc

    def staple(self) -> bytes | None:
        """Return the OCSP response if it is valid now, by this host's clock; None if not."""
        if self.ocsp is None:
            return None
        return None if objection(self.ocsp, self.chain[0], datetime.now(UTC)) else self.ocsp

    @classmethod
    def from_pem(
        cls,
        chain: bytes,
        key: bytes,
        chain_from: StrPath = "the certificate file",
        key_from: StrPath = "the key file",
    ) -> Self:
        """Parse a PEM chain and an unencrypted PEM key; messages say where they are from.

        Raises:
            ConfigError: one of them is unusable, or they do not belong together.
        """
        certificates = parse_certificates(chain, str(chain_from))
        private = parse_key(key, str(key_from))
        try:
            fits = private.public_key() == certificates[0].public_key()
        except (ValueError, UnsupportedAlgorithm):  # of a key that ours is certainly not
            fits = False
        if not fits:
            raise ConfigError(
                f"the private key of {key_from} does not belong to the certificate of {chain_from}",
                hint="the first certificate in the file must be the key's own",
            )
        return cls(certificates, private)

    @classmethod
    def load(cls, chain: StrPath, key: StrPath) -> Self:
        """Read both files and parse them (`from_pem`)."""
        return cls.from_pem(read_file(chain, CERTIFICATE), read_file(key, PRIVATE_KEY), chain, key)
