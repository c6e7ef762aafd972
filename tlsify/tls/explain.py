"""What an alert or a refused certificate means to the user: the error and its hint."""

from __future__ import annotations

from tlsify.codepoints import AlertDescription
from tlsify.errors import IdentityError, PeerAlert, PeerMisbehaved
from tlsify.tls.unbound import verify_error

# X509_V_ERR numbers (openssl/x509_vfy.h).
_PATH_HINTS = {
    9: "check this host's clock",  # CERT_NOT_YET_VALID
    10: "the peer has to renew its certificate; check this host's clock too",  # CERT_HAS_EXPIRED
    18: "to accept this very certificate, name its file with --ca",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: "if you trust that authority, name its file with --ca",  # SELF_SIGNED_CERT_IN_CHAIN
    20: "if you trust its issuer, name the issuer's file with --ca",  # ..._ISSUER_CERT_LOCALLY
    21: "the peer may have left out an intermediate certificate",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
}
_ALERT_HINTS = {
    AlertDescription.handshake_failure: "the two sides may have no cipher suite in common",
    AlertDescription.protocol_version: "the two sides have no protocol version in common",
    AlertDescription.insufficient_security: "the peer demands stronger parameters",
    AlertDescription.unknown_ca: "the peer does not trust the authority behind our certificate",
    AlertDescription.bad_certificate: "the peer does not accept our certificate or its names",
    AlertDescription.certificate_unknown: "the peer does not accept our certificate or its names",
    AlertDescription.certificate_expired: "the peer finds our certificate expired",
    AlertDescription.certificate_required: "the peer wants a client certificate",
    AlertDescription.unrecognized_name: "the peer serves no such name; check --servername",
    AlertDescription.no_application_protocol: "the two sides have no ALPN protocol in common",
}


def untrusted_path(error: int) -> IdentityError:
    """Build the error for a certificate path that OpenSSL refuses.

    Args:
        error: an X509_V_ERR number.
    """
    return IdentityError(
        f"the peer's certificate is not trusted: {verify_error(error)}",
        hint=_PATH_HINTS.get(error, "name the authority to trust with --ca"),
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
    """Build the error for what OpenSSL refused.

    Args:
        during: what failed, such as "the handshake".
        failure: pyOpenSSL's exception. Mostly it holds OpenSSL's error queue; a SysCallError, which
            comes where that queue is empty, holds a number and a text.
        alert: what the peer was answered with, if anything.
    """
    queue = failure.args[0] if failure.args else []
    reasons = "; ".join(e[2] for e in queue) if isinstance(queue, list) else str(failure.args[-1])
    return PeerMisbehaved(f"{during} failed: {reasons or 'unknown reason'}", alert=alert)
