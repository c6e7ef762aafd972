"""Certificates with odd and with hostile content, and what is told of their connections."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID, ObjectIdentifier

from tests.conftest import HOST
from tlsify.codepoints import CipherSuite
from tlsify.connection.handoff import Handoff, Offload, Reason
from tlsify.sslcontext.facts import _ATTRIBUTES, TLSInfo
from tlsify.tls.negotiated import Negotiated

DAY = dt.timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())


def make_certificate(
    subject: x509.Name, *more: x509.GeneralName | x509.ExtensionType, serial: int = 0xABC
) -> bytes:
    """Issue a certificate, in DER.

    Args:
        subject: its name.
        more: alternative names, and other extensions.
        serial: its number.
    """
    begin = dt.datetime(2031, 1, 5, 9, 4, 3, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ünïts")]))
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(begin + 300 * DAY)
    )
    extensions = [each for each in more if isinstance(each, x509.ExtensionType)]
    if names := [each for each in more if isinstance(each, x509.GeneralName)]:
        extensions.append(x509.SubjectAlternativeName(names))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def facts_of(
    certificate: bytes | None, *, verified: bool = True, reason: str = "policy-off"
) -> TLSInfo:
    """Return the facts of a connection whose peer showed a certificate."""
    negotiated = Negotiated(
        CipherSuite.TLS_AES_256_GCM_SHA384,
        alpn=b"h2",
        server_name=HOST,
        certificate=certificate,
        group="X25519",
        resumed=False,
        max_fragment_length=None,
    )
    with socket.socket() as sock:
        handed = Handoff(sock, Offload.RELAY, Reason(reason, "why"), negotiated, None, None)
        return TLSInfo(handed, verified=verified)


def _access(method: ObjectIdentifier, *names: x509.GeneralName) -> list[x509.AccessDescription]:
    return [x509.AccessDescription(method, name) for name in names]


_HERE, _THERE = (x509.UniformResourceIdentifier(f"http://{each}.example") for each in "ab")
SAMPLES: dict[str, tuple[Any, ...]] = {
    "plain": (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")]),),
    "empty": (x509.Name([]), x509.DNSName("example.org")),
    "every attribute": (
        x509.Name(
            x509.NameAttribute(
                ObjectIdentifier(number), "DE" if _ATTRIBUTES[number].endswith("yName") else "x"
            )
            for number in _ATTRIBUTES
            if number != "2.5.4.45"  # of bits
        ),
    ),
    "two in one": (
        x509.Name(
            [
                x509.RelativeDistinguishedName(
                    [
                        x509.NameAttribute(NameOID.COMMON_NAME, "both"),
                        x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@example.org"),
                    ]
                ),
                x509.RelativeDistinguishedName(
                    [x509.NameAttribute(ObjectIdentifier("1.3.6.1.4.1.99999.1"), "own")]
                ),
            ]
        ),
    ),
    "names of all kinds": (
        x509.Name([]),
        x509.DNSName("*.example.org"),
        x509.RFC822Name("a@example.org"),
        x509.UniformResourceIdentifier("urn:uuid:f81d4fae"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::c:1")),
        x509.RegisteredID(ObjectIdentifier("1.3.6.1.4.1.99999.2")),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dir")])),
        x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.99999.3"), b"\x0c\x01x"),
    ),
    "addresses of its authority": (
        x509.Name([]),
        x509.AuthorityInformationAccess(
            _access(AuthorityInformationAccessOID.OCSP, _HERE, x509.DNSName("no.uri"), _THERE)
            + _access(AuthorityInformationAccessOID.CA_ISSUERS, _THERE)
            + _access(ObjectIdentifier("1.3.6.1.4.1.99999.4"), _HERE)
        ),
        x509.CRLDistributionPoints(
            [
                x509.DistributionPoint(None, None, None, [x509.DNSName("issuer")]),
                x509.DistributionPoint([x509.DNSName("no.uri"), _HERE], None, None, None),
                x509.DistributionPoint([_THERE, _HERE], None, None, None),
            ]
        ),
    ),
    "no address of its authority": (
        x509.Name([]),
        x509.AuthorityInformationAccess(
            _access(AuthorityInformationAccessOID.OCSP, x509.DNSName("no.uri"))
        ),
    ),
}

VICTIM = make_certificate(
    *SAMPLES["names of all kinds"], *SAMPLES["addresses of its authority"][1:]
)
