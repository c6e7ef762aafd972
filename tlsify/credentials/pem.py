"""PEM files and pins, without an X.509 parser: all that a client without a certificate needs."""

from __future__ import annotations

import binascii
import contextlib
import os
import re
from typing import TYPE_CHECKING

from tlsify.credentials.der import SEQUENCE, elements
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import StrPath


_PIN = re.compile(r"sha256//([A-Za-z0-9+/]{43}=)")
_LABELS = (b"CERTIFICATE", b"X509 CERTIFICATE")
# Base64 has no hyphen, so a BEGIN without an END costs no second pass.
_BLOCK = rb"-----BEGIN (%b)-----([^-]*)-----END \1-----"
_TRUSTED = b"-----BEGIN TRUSTED CERTIFICATE-----"
_BLANKS = b" \t\r\n"
_DER = b"\x30\x82"


@contextlib.contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """Return a path at which OpenSSL finds data in memory, while the block lasts."""
    with open(os.memfd_create("tlsify"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def read_pem(pem: bytes, what: str) -> tuple[bytes, ...]:
    """Find the certificates of a PEM file, for every use of them.

    It accepts files as tools, editors and ``cat`` leave them: any line ends, or none between one
    certificate and the next, and anything else around them. Every certificate must be whole.

    Returns:
        DER, of which only the outermost length was checked.

    Raises:
        ConfigError: there is no certificate, or half of one.

    Source: RFC 7468.
    """
    if _TRUSTED in pem:
        raise ConfigError(
            f"{what} holds a TRUSTED CERTIFICATE, whose trust settings tlsify does not apply",
            hint="convert it to a plain certificate: openssl x509 -in FILE -out FILE.pem",
        )
    try:
        found = read_blocks(pem, _LABELS)
    except ValueError as exc:
        raise malformed(what) from exc
    if not found:
        raise ConfigError(f"{what} holds no usable PEM certificate", hint=_instead(pem))
    return found


def read_blocks(pem: bytes, labels: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Find the blocks of a PEM file that have one of some labels.

    Returns:
        DER, of which only the outermost length was checked.

    Raises:
        ValueError: one of them is not whole.
    """
    found = re.findall(_BLOCK % b"|".join(labels), pem)
    for mark in (b"BEGIN", b"END"):
        if sum(pem.count(b"-----%b %b-----" % (mark, label)) for label in labels) != len(found):
            raise ValueError("a block is cut off")
    return tuple(_decode(body) for _, body in found)


def _decode(body: bytes) -> bytes:
    der = binascii.a2b_base64(body.translate(None, _BLANKS), strict_mode=True)
    ((tag, _),) = elements(der)
    if tag != SEQUENCE:
        raise ValueError("it is no SEQUENCE")
    return der


def _instead(content: bytes) -> str:
    """Return the hint for a file of another kind."""
    if content.startswith(_DER):
        return "it is DER: openssl x509 -inform DER -in FILE -out FILE.pem makes PEM of it"
    if _LABELS[0] in content.replace(b"\0", b""):
        return "it is in UTF-16: save it as plain text, UTF-8 or ASCII"
    return 'it must contain "-----BEGIN CERTIFICATE-----"'


def malformed(what: str, kind: str = "PEM certificate", label: str = "CERTIFICATE") -> ConfigError:
    """Return the error for a file with a malformed certificate, or something else of one label."""
    return ConfigError(
        f"{what} holds a {kind} that is cut off or damaged",
        hint=f'each must be whole, from "-----BEGIN {label}-----" to its END line',
    )


def no_anchors(folder: StrPath) -> ConfigError:
    """Return the error for a folder without trust anchors."""
    return ConfigError(
        f"no trust anchor in {folder}", hint="it needs at least one .pem or .crt file"
    )


def parse_pins(text: str) -> tuple[bytes, ...]:
    """Read pins as curl spells them: ``sha256//BASE64``, or several with ``;`` in between.

    Returns:
        SHA-256 digests of SubjectPublicKeyInfo structures, 32 bytes each.

    Raises:
        ConfigError: it is not a pin.
    """
    found = [_PIN.fullmatch(pin) for pin in text.split(";")]
    if None in found:
        raise ConfigError(
            f'"{text}" is not a pin',
            hint="write sha256// and the base64 of the SHA-256 of the key's SubjectPublicKeyInfo",
        )
    return tuple(binascii.a2b_base64(pin[1]) for pin in found if pin)


def spell_pin(digest: bytes) -> str:
    """Return a digest in the form that `parse_pins` reads."""
    return "sha256//" + binascii.b2a_base64(digest, newline=False).decode("ascii")
