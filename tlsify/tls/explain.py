"""Errors and hints for alerts and refused certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.codepoints import AlertDescription
from tlsify.credentials.pem import spell_pin
from tlsify.errors import HandshakeError, IdentityError, PeerAlert, PeerMisbehaved, Truncated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlsify.names import ReferenceIdentifier

# X509_V_ERR numbers (openssl/x509_vfy.h). None of these may lead a user to trust more than he
# means to: --ca is named where an anchor is missing, and then with an "if".
_ANOTHER = "the peer needs another certificate"
_DISTRUSTED = "an authority on the path is marked as not to be trusted for this"
_NO_ISSUER = f"an authority on the path may not issue this: {_ANOTHER}"
_TOO_WEAK = f"a key or signature on the path is too weak: {_ANOTHER}"
_UNUSABLE_LIST = "get the current revocation list from the issuer of the certificate"
_MISSING_ROOT = (
    "the peer may have left out an intermediate certificate; if you trust its issuer, name the "
    "issuer's file with --ca"
)
_PATH_HINTS = {
    2: _MISSING_ROOT,  # UNABLE_TO_GET_ISSUER_CERT
    3: "add the current list of the issuer to the revocation lists",  # UNABLE_TO_GET_CRL
    5: _UNUSABLE_LIST,  # UNABLE_TO_DECRYPT_CRL_SIGNATURE
    7: "an authority here has the same name as the issuer and another key: if it has changed its "
    "key, get its new certificate from itself",  # CERT_SIGNATURE_FAILURE
    8: _UNUSABLE_LIST,  # CRL_SIGNATURE_FAILURE
    9: "check this host's clock",  # CERT_NOT_YET_VALID
    10: "the peer has to renew its certificate; check this host's clock too",  # CERT_HAS_EXPIRED
    11: "check this host's clock",  # CRL_NOT_YET_VALID
    12: "get the issuer's current revocation list",  # CRL_HAS_EXPIRED
    15: _UNUSABLE_LIST,  # ERROR_IN_CRL_LAST_UPDATE_FIELD
    16: _UNUSABLE_LIST,  # ERROR_IN_CRL_NEXT_UPDATE_FIELD
    18: "if you know by another way that this very certificate is the peer's, name its file with "
    "--ca",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: "if you trust that authority, name its file with --ca",  # SELF_SIGNED_CERT_IN_CHAIN
    20: _MISSING_ROOT,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: "the peer may have left out an intermediate certificate",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    22: f"its chain is longer than OpenSSL follows: {_ANOTHER}",  # CERT_CHAIN_TOO_LONG
    23: "its issuer has withdrawn it: the peer needs another one",  # CERT_REVOKED
    25: _NO_ISSUER,  # PATH_LENGTH_EXCEEDED
    26: f"it, or an authority on the path, is for another use: {_ANOTHER}",  # INVALID_PURPOSE
    27: _DISTRUSTED,  # CERT_UNTRUSTED
    28: _DISTRUSTED,  # CERT_REJECTED
    32: _NO_ISSUER,  # KEYUSAGE_NO_CERTSIGN
    33: _UNUSABLE_LIST,  # UNABLE_TO_GET_CRL_ISSUER
    35: _UNUSABLE_LIST,  # KEYUSAGE_NO_CRL_SIGN
    36: _UNUSABLE_LIST,  # UNHANDLED_CRITICAL_CRL_EXTENSION
    44: _UNUSABLE_LIST,  # DIFFERENT_CRL_SCOPE
    47: _NO_ISSUER,  # PERMITTED_VIOLATION
    48: _NO_ISSUER,  # EXCLUDED_VIOLATION
    54: _UNUSABLE_LIST,  # CRL_PATH_VALIDATION_ERROR
    66: _TOO_WEAK,  # EE_KEY_TOO_SMALL
    67: _TOO_WEAK,  # CA_KEY_TOO_SMALL
    68: _TOO_WEAK,  # CA_MD_TOO_WEAK
    79: _NO_ISSUER,  # INVALID_CA
}
_HOSTNAME_MISMATCH = 62
# Of all others: what is wrong is in a certificate.
_OTHERWISE = f"a certificate on the path is not as it should be: {_ANOTHER}"
# What OpenSSL's error queue says where a client shows no certificate and has to.
_NONE_SHOWN = "peer did not return a certificate"
_ALERT_HINTS = {
    AlertDescription.handshake_failure: "the two sides may have no cipher suite in common",
    AlertDescription.protocol_version: "the two sides have no protocol version in common",
    AlertDescription.insufficient_security: "the peer demands stronger parameters",
    AlertDescription.unknown_ca: "the peer does not trust the authority behind our certificate",
    AlertDescription.bad_certificate: "the peer does not accept our certificate or its names",
    AlertDescription.certificate_unknown: "the peer does not accept our certificate or its names",
    AlertDescription.certificate_expired: "the peer finds our certificate expired",
    AlertDescription.certificate_revoked: "the peer finds our certificate withdrawn by its issuer",
    AlertDescription.certificate_required: "the peer wants a client certificate",
    AlertDescription.unrecognized_name: "the peer serves no such name; check --servername",
    AlertDescription.no_application_protocol: "the two sides have no ALPN protocol in common",
}


def untrusted_path(error: int, sentence: str) -> IdentityError:
    """Build the error for a certificate path that OpenSSL refuses.

    Args:
        error: an X509_V_ERR number.
        sentence: OpenSSL's own for it.
    """
    refused = IdentityError(
        f"the peer's certificate is not trusted: {sentence}",
        hint=_PATH_HINTS.get(error, _OTHERWISE),
    )
    refused.verify_code = error
    return refused


def wrong_peer(names: tuple[str, ...], identities: Iterable[ReferenceIdentifier]) -> IdentityError:
    """Build the error for a certificate that presents these names, and none of those accepted."""
    wanted = " or ".join(map(str, identities))
    refused = IdentityError(
        f"the peer is not {wanted}: it presents {', '.join(names) or 'no such name'}",
        mismatches=names,
        alert=AlertDescription.bad_certificate,
        hint="check the host; if you know that the peer has another name, say so with --ref-id",
    )
    refused.verify_code = _HOSTNAME_MISMATCH
    return refused


def wrong_key(digest: bytes) -> IdentityError:
    """Build the error for a certificate whose key is none of those pinned.

    Nothing is wrong with the certificate in itself, which is what bad_certificate would say.

    Args:
        digest: SHA-256 of its SubjectPublicKeyInfo; empty if OpenSSL cannot read that.
    """
    found = spell_pin(digest) if digest else "of a kind that OpenSSL does not know"
    return IdentityError(
        f"the peer's key is not one of those pinned: it is {found}",
        mismatches=(found,) if digest else (),
        alert=AlertDescription.certificate_unknown,
        hint="if the peer tells you by another way that this is its new key, pin it",
    )


def peer_alert(number: int, during: str) -> PeerAlert:
    """Build the error for a fatal alert that the peer sent.

    Args:
        number: the description byte, assigned or not.
        during: what the alert ended, such as "the handshake".
    """
    alert = AlertDescription.known(number)
    return PeerAlert(
        f"the peer ended {during} with alert {AlertDescription.name_of(number)}",
        alert=alert,
        hint=_ALERT_HINTS.get(alert) if alert is not None else None,
    )


def library_failure(
    during: str, failure: Exception, alert: AlertDescription | None
) -> PeerMisbehaved:
    """Build the error for a certificate or message that OpenSSL refused.

    Args:
        during: what failed, such as "the handshake".
        failure: pyOpenSSL's exception. Mostly it holds OpenSSL's error queue; a SysCallError, which
            comes where that queue is empty, holds a number and a text.
        alert: what the peer was answered with, if anything.
    """
    return PeerMisbehaved(f"{during} failed: {_reasons(failure) or 'unknown reason'}", alert=alert)


def handshake_failure(failure: Exception, alert: AlertDescription | None) -> HandshakeError:
    """Build the error for a handshake that OpenSSL refused; arguments are `library_failure`'s."""
    if _reasons(failure) == _NONE_SHOWN:
        return IdentityError(
            "the client shows no certificate",
            alert=alert,
            hint="give the client a certificate, or serve those without one too",
        )
    return library_failure("the handshake", failure, alert)


def _reasons(failure: Exception) -> str:
    queue = failure.args[0] if failure.args else []
    return "; ".join(e[2] for e in queue) if isinstance(queue, list) else str(failure.args[-1])


def cut_short(server_name: str | None = None) -> Truncated:
    """Build the error for an end of stream within the handshake."""
    found = Truncated(
        "the peer closed the connection during the handshake",
        hint="check that the peer speaks TLS on this port",
    )
    found.server_name = server_name
    return found


def unfinished() -> HandshakeError:
    """Build the error for a handshake message whose rest has not come, though data waits for it."""
    return HandshakeError(
        "the peer stopped in the midst of a handshake message",
        hint="the peer hangs, or a device in between has cut the message: connect again",
    )


def truncated() -> Truncated:
    """Build the error for an end of stream without close_notify (RFC 8446 6.1)."""
    return Truncated(
        "the connection ended without close_notify: what was received may be incomplete",
        hint="the peer, or a device in between, cut the connection",
    )
