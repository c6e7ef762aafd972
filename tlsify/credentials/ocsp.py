"""OCSP responses: read from a file, and fit to be stapled or not (RFC 6960)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.ocsp import load_der_ocsp_response

from tlsify.credentials.reading import OCSP_RESPONSE, read_file
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from _typeshed import StrPath
    from cryptography.x509 import Certificate
    from cryptography.x509.ocsp import OCSPSingleResponse


def load(path: StrPath, *, waits: bool = True) -> bytes:
    """Read a response in DER, as ``openssl ocsp -respout`` writes it; `read_file` has more.

    Raises:
        ConfigError: it cannot be read, or is no OCSP response.
    """
    der = read_file(path, OCSP_RESPONSE, waits=waits)
    try:
        load_der_ocsp_response(der)
    except ValueError as exc:
        raise ConfigError(
            f"{path} holds no OCSP response", hint="it must be DER, as openssl ocsp -respout writes"
        ) from exc
    return der


def belongs(der: bytes, certificate: Certificate) -> bool:
    """Return whether a response is about a certificate, whatever the status."""
    return about(der, certificate) is not None


def objection(der: bytes, certificate: Certificate, now: datetime) -> str | None:
    """Return why a response must not be stapled; None if it may be.

    Its signature is the client's to verify: the server gains nothing by a forged one.

    Args:
        der: the response, as from `load`.
        certificate: the server's own.
        now: with a time zone.
    """
    said = about(der, certificate)
    if said is None:
        return "the OCSP response is about another certificate, or is an error response"
    if said.certificate_status.name != "GOOD":
        return f"the OCSP response says {said.certificate_status.name.lower()}"
    if said.this_update_utc > now:
        return f"the OCSP response is not valid before {said.this_update_utc:%Y-%m-%d %H:%M:%S} UTC"
    end = said.next_update_utc
    if end is not None and end <= now:
        return f"the OCSP response expired on {end:%Y-%m-%d %H:%M:%S} UTC"
    return None


def about(der: bytes, certificate: Certificate) -> OCSPSingleResponse | None:
    """Return what a response says of a certificate; None if it says nothing."""
    return next(_about(der, certificate), None)


def demanded(certificate: Certificate) -> bool:
    """Return whether clients are to refuse a certificate without a response (RFC 7633)."""
    try:
        features = certificate.extensions.get_extension_for_class(x509.TLSFeature).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return x509.TLSFeatureType.status_request in features


def _about(der: bytes, certificate: Certificate) -> Iterator[OCSPSingleResponse]:
    """Find the parts of a response about a certificate, by its issuer's name and serial number."""
    try:
        response = load_der_ocsp_response(der)
        if response.response_status.name != "SUCCESSFUL":
            return
        for said in response.responses:
            name = hashlib.new(said.hash_algorithm.name, certificate.issuer.public_bytes())
            is_issuers = said.issuer_name_hash == name.digest()
            if is_issuers and said.serial_number == certificate.serial_number:
                yield said
    except (ValueError, UnsupportedAlgorithm):  # an unreadable field
        return
