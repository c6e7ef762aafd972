"""A file with one certificate, as tools, editors and accidents spell it."""

from __future__ import annotations

import base64
import binascii
import textwrap

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tlsify.credentials.self_signed import make_key_pair

_STRANGER = make_key_pair(["stranger.example"]).certificate_pem()
_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_PARAMETERS = b"-----BEGIN DH PARAMETERS-----\nMAYCAQcCAQI=\n-----END DH PARAMETERS-----\n"


def _body(pem: bytes) -> bytes:
    return pem.partition(_BEGIN)[2].partition(_END)[0]


def _der(pem: bytes) -> bytes:
    return binascii.a2b_base64(_body(pem))


def _in_lines(pem: bytes, width: int) -> bytes:
    text = base64.b64encode(_der(pem)).decode()
    return b"\n".join([_BEGIN, "\n".join(textwrap.wrap(text, width)).encode(), _END, b""])


def good(pem: bytes) -> dict[str, bytes]:
    """Return the files in which the certificate is whole, whoever reads them."""
    return {
        "as OpenSSL writes it": pem,
        "CRLF": pem.replace(b"\n", b"\r\n"),
        "CR": pem.replace(b"\n", b"\r"),
        "joined without a line break": _STRANGER.rstrip() + pem,
        "joined in front": pem.rstrip() + _STRANGER,
        "no line break at the end": pem.rstrip(),
        "UTF-8 with a byte order mark": b"\xef\xbb\xbf" + pem,
        "text around": b"# our root\nsubject=CN = x\n\n" + pem + b"\nthe end",
        "text in Latin-1": b"# L\xf6wen AG\n" + pem,
        "bag attributes": b"Bag Attributes\n    friendlyName: a\nKey Attributes: <No>\n" + pem,
        "NUL at the end": pem + b"\0",
        "^Z at the end": pem + b"\x1a",
        "indented": pem.replace(b"\n", b"\n   "),
        "blanks at the ends of lines": pem.replace(b"\n", b" \t\n"),
        "blank lines": pem.replace(b"\n", b"\n\n"),
        "one line of base64": _in_lines(pem, 10_000),
        "lines of 76": _in_lines(pem, 76),
        "X509 CERTIFICATE": pem.replace(b" CERTIFICATE-", b" X509 CERTIFICATE-"),
        "key in front": _KEY + pem,
        "key behind": pem + _KEY,
        "parameters": _PARAMETERS + pem,
        "something damaged of another kind": pem + _PARAMETERS.replace(b"=", b"?"),
        "twice": pem + pem,
        "among others": _STRANGER + pem + _STRANGER,
    }


def bad(pem: bytes) -> dict[str, tuple[bytes, str]]:
    """Return the files that nobody may take, and what is to be said of each."""
    trusted = pem.replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-")
    return {
        "empty": (b"", "no usable PEM certificate"),
        "garbage": (b"garbage", "no usable PEM certificate"),
        "DER": (_der(pem), "-inform DER"),
        "UTF-16": (pem.decode().encode("utf-16"), "UTF-16"),
        "a key alone": (_KEY, "no usable PEM certificate"),
        "the last cut off": (pem + _STRANGER[:-60], "cut off or damaged"),
        "cut off": (pem[:-60], "cut off or damaged"),
        "the first cut off": (_STRANGER[:-60] + pem, "cut off or damaged"),
        "its BEGIN line is damaged": (_STRANGER + pem.replace(b"B", b"8", 1), "cut off or damaged"),
        "its END line is cut off": (pem.rstrip()[:-1], "cut off or damaged"),
        "a line is missing": (pem.replace(pem.splitlines()[2] + b"\n", b""), "cut off or damaged"),
        "a wrong character": (pem.replace(b"M", b"!", 1), "cut off or damaged"),
        "nothing in between": (pem + b"\n".join([_BEGIN, _END]), "cut off or damaged"),
        "no certificate in between": (
            pem + b"\n".join([_BEGIN, b"MAA=", _END]),
            "cut off or damaged",
        ),
        "labels that differ": (pem.replace(b"END ", b"END X509 "), "cut off or damaged"),
        "headers": (
            pem.replace(_BEGIN + b"\n", _BEGIN + b"\nProc-Type: 4,CLEAR\n\n"),
            "cut off or damaged",
        ),
        "TRUSTED CERTIFICATE": (trusted, "TRUSTED CERTIFICATE"),
        "one of them is TRUSTED": (_STRANGER + trusted, "TRUSTED CERTIFICATE"),
    }
