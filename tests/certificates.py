"""Certificates of every kind, OCSP responses for them, and files with both."""

from __future__ import annotations

import datetime as dt
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID, NameOID

from tests.conftest import HOST
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import parse_certificates
from tlsify.names import is_ip_address

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

    from tlsify.credentials.parse import PrivateKey

DAY = dt.timedelta(days=1)
# One of each kind for all tests: an RSA key takes longer than a handshake.
KEYS: dict[str, PrivateKey] = {
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def now() -> dt.datetime:
    """Return the time, in UTC."""
    return dt.datetime.now(dt.UTC)


def certify(
    authority: trustme.CA,
    *names: str,
    kind: str = "ec",
    begin: dt.timedelta = -DAY,
    end: dt.timedelta = DAY,
    must_staple: bool = False,
    serial: int | None = None,
    responder: str = "",
) -> KeyPair:
    """Issue a certificate for names and addresses, for a key of some kind."""
    issuer, key = _issuer(authority)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{kind} {names[0]}"[:64])])
    alternatives = [
        x509.IPAddress(ip_address(name)) if is_ip_address(name) else x509.DNSName(name)
        for name in names
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject)
        .public_key(KEYS[kind].public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now() + begin)
        .not_valid_after(now() + end)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    if responder:
        place = x509.UniformResourceIdentifier(responder)
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place)
        named = x509.AuthorityInformationAccess([access])
        builder = builder.add_extension(named, critical=False)
    if must_staple:
        feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
        builder = builder.add_extension(feature, critical=False)
    above = parse_certificates(authority.cert_pem.bytes(), "the test authority")
    is_root = issuer.subject == issuer.issuer
    return KeyPair((builder.sign(key, hashes.SHA256()), *(() if is_root else above)), KEYS[kind])


def sign(
    name: str,
    issuer: KeyPair | None,
    *extensions: x509.ExtensionType,
    key: PrivateKey | None = None,
    begin: dt.timedelta = -DAY,
    end: dt.timedelta = DAY,
) -> KeyPair:
    """Sign a certificate by an issuer, or by itself.

    Args:
        name: the common name of its subject.
        issuer: its first certificate and its key; None for a certificate that signs itself.
        extensions: what it has beside the identifiers of both keys; all critical.
        key: of its subject, if it has been certified before.
        begin: from now, of its time.
        end: likewise.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.chain[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() + begin)
        .not_valid_after(now() + end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return KeyPair((builder.sign(signer, hashes.SHA256()),), key)


def self_signed(key: PrivateKey) -> KeyPair:
    """Make a certificate for the tests' host with any kind of key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    is_eddsa = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, None if is_eddsa else hashes.SHA256())
    )
    return KeyPair((certificate,), key)


def with_extensions(*extensions: x509.ExtensionType) -> x509.Certificate:
    """Make a certificate with these extensions only."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cn.example.org")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEYS["ec"].public_key())
        .serial_number(1)
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEYS["ec"], hashes.SHA256())


def named(*names: x509.GeneralName) -> x509.Certificate:
    """Make a certificate for these names."""
    return with_extensions(x509.SubjectAlternativeName(names))


def raw(value: bytes) -> x509.Certificate:
    """Make a certificate whose subjectAltName holds these bytes."""
    oid = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
    return with_extensions(x509.UnrecognizedExtension(oid, value))


def respond(
    authority: trustme.CA,
    pair: KeyPair,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    begin: dt.timedelta = -DAY,
    end: dt.timedelta | None = DAY,
) -> bytes:
    """Make an OCSP response in DER for a certificate of an authority."""
    issuer, key = _issuer(authority)
    is_revoked = status is ocsp.OCSPCertStatus.REVOKED
    response = ocsp.OCSPResponseBuilder().add_response(
        cert=pair.chain[0],
        issuer=issuer,
        algorithm=hashes.SHA1(),  # a name for the issuer, as all use it
        cert_status=status,
        this_update=now() + begin,
        next_update=None if end is None else now() + end,
        revocation_time=now() - DAY if is_revoked else None,
        revocation_reason=None,
    )
    signed = response.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer).sign(
        key, hashes.SHA256()
    )
    return signed.public_bytes(Encoding.DER)


def refusal_to_answer() -> bytes:
    """Make the response of a responder that has no time."""
    made = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    return made.public_bytes(Encoding.DER)


def key_pem(pair: KeyPair) -> bytes:
    """Write the key."""
    return pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def save(pair: KeyPair, chain: Path, key: Path) -> None:
    """Write the two files of a key pair; one, if they are the same."""
    chain.parent.mkdir(parents=True, exist_ok=True)
    if chain == key:
        chain.write_bytes(pair.certificate_pem() + key_pem(pair))
    else:
        chain.write_bytes(pair.certificate_pem())
        key.write_bytes(key_pem(pair))
    key.chmod(0o600)


def _issuer(authority: trustme.CA) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    issuer, *_ = parse_certificates(authority.cert_pem.bytes(), "the test authority")
    key = load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return issuer, key
