"""A throw-away certificate for trying things out on this host."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tlsify.credentials.key_pair import KeyPair
from tlsify.names import canonical, is_ip_address

_LIFETIME = timedelta(days=30)
_MAX_COMMON_NAME = 64  # RFC 5280 A.1; clients do not compare it, so a part will do
# Certificates are refused by hosts whose clock is a little behind.
_LEEWAY = timedelta(hours=1)


def make_key_pair(names: list[str], *critical: x509.ExtensionType) -> KeyPair:
    """Make an EC key and a self-signed server certificate for it.

    Args:
        names: host names and addresses; the first, cut to 64 characters, is the subject as well.
        critical: further extensions, which are critical.

    Raises:
        ConfigError: there can be no such name.
    """
    names = list(map(canonical, names))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:_MAX_COMMON_NAME])])
    alternatives = [
        x509.IPAddress(ipaddress.ip_address(name)) if is_ip_address(name) else x509.DNSName(name)
        for name in names
    ]
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LEEWAY)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension in critical:
        builder = builder.add_extension(extension, critical=True)
    return KeyPair((builder.sign(key, hashes.SHA256()),), key)
