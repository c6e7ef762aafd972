"""Verification of the peer's certificate by a configuration: path, names and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.config import ClientConfig
from tlsify.errors import IdentityError
from tlsify.tls.certificates import der, key_hash
from tlsify.tls.explain import untrusted_path, wrong_key, wrong_peer
from tlsify.tls.identity import presented, presents
from tlsify.tls.openssl import verify_error

if TYPE_CHECKING:
    from OpenSSL import crypto

    from tlsify.config import ServerConfig
    from tlsify.names import ReferenceIdentifier

_UNABLE_TO_GET_CRL = 3  # openssl/x509_vfy.h


def verifier(config: ClientConfig | ServerConfig) -> PeerVerifier | None:
    """Return what judges a peer; None for a server that asks its clients for no certificate."""
    asks = isinstance(config, ClientConfig) or config.client_trust is not None
    return PeerVerifier(config) if asks else None


class PeerVerifier:
    """Judges one peer, inside the handshake: a wrong one never gets our Finished.

    Attributes:
        rejection: why the peer is refused, or None as long as it is not.
        heard: whether OpenSSL has shown the peer's own certificate, and it was judged.
        shown: the certificate that was judged last, in DER; None if there was none.
    """

    def __init__(self, config: ClientConfig | ServerConfig) -> None:
        """Verify by a configuration."""
        self.rejection: IdentityError | None = None
        self.heard = False
        self.shown: bytes | None = None
        self._verifies = True
        self._pins: tuple[bytes, ...] = ()
        self._identities: tuple[ReferenceIdentifier, ...] = ()
        self._has_lists, self._needs_all = bool(config.crls), config.crl_check_all
        if isinstance(config, ClientConfig):
            self._verifies = config.verify
            self._pins = config.pins
            if config.verify:
                self._identities = config.identities
            self._required = bool(self._identities or self._pins)
        else:
            self._identities = config.client_identities
            self._required = config.client_required

    def hear(self, certificate: crypto.X509, error: int, depth: int, *, valid: bool) -> bool:
        """Take what OpenSSL finds about one certificate of the path; False ends the handshake.

        Args:
            certificate: the one in question.
            error: an X509_V_ERR number, if it is not valid.
            depth: how far up it is; 0 is the peer's own.
            valid: what OpenSSL would say.
        """
        if not valid and not self._overlooks(error, depth):
            self.rejection = untrusted_path(error, verify_error(error))
        elif depth == 0:
            self.rejection = self.judge(certificate)
            self.heard = True
        return self.rejection is None

    def _overlooks(self, error: int, depth: int) -> bool:
        """Only the peer's own issuer must have a revocation list: authorities seldom publish one.

        The configuration may say otherwise. Without verification nothing is wrong with any path.
        """
        is_overlooked = self._has_lists and not self._needs_all and depth > 0
        return not self._verifies or (is_overlooked and error == _UNABLE_TO_GET_CRL)

    def judge(self, certificate: crypto.X509 | None) -> IdentityError | None:
        """Return the error in the names, or the key, of the peer's own certificate.

        Args:
            certificate: None if there is none, as in a session that was made without.
        """
        self.shown = None if certificate is None else der(certificate)
        if certificate is None or self.shown is None:
            return IdentityError("the peer has no certificate") if self._required else None
        if self._identities and not presents(self.shown, self._identities):
            return wrong_peer(presented(self.shown), self._identities)
        if self._pins and (digest := key_hash(certificate)) not in self._pins:
            return wrong_key(digest)
        return None
