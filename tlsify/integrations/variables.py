"""Variables of a connection for a WSGI application: mod_ssl's, and the offload."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from tlsify.sslcontext.facts import TLSInfo

_LINE = 64


def variables(facts: TLSInfo) -> dict[str, str]:
    """Return the variables of one connection, for a request's environment.

    ``SSL_CLIENT_VERIFY`` is SUCCESS or NONE: whatever certificate a server asks for is judged.
    ``TLSIFY_KTLS`` is ``kernel``, or ``relay:`` and the code of the reason. Values are as PEP 3333
    wants them: bytes of UTF-8, each as one character; of what cannot be printed the escapes.

    Source: https://httpd.apache.org/docs/2.4/mod/mod_ssl.html#envvars
    """
    cipher, version, bits = facts.cipher()
    said = {
        "HTTPS": "on",
        "SSL_PROTOCOL": version,
        "SSL_CIPHER": cipher,
        "SSL_CIPHER_USEKEYSIZE": str(bits),
        "SSL_CIPHER_ALGKEYSIZE": str(bits),
        "SSL_TLS_SNI": _text(facts.server_hostname or ""),
        "SSL_SESSION_RESUMED": "Resumed" if facts.session_reused else "Initial",
        "SSL_CLIENT_VERIFY": "NONE",
        "TLSIFY_KTLS": facts.ktls if facts.ktls == "kernel" else f"relay:{facts.ktls}",
    }
    der = facts.getpeercert(binary_form=True)
    if der is not None:
        said |= {"SSL_CLIENT_VERIFY": "SUCCESS"} | _client(facts, der)
    return said


def _client(facts: TLSInfo, der: bytes) -> dict[str, str]:
    lines = base64.b64encode(der).decode()
    body = "\n".join(lines[start : start + _LINE] for start in range(0, len(lines), _LINE))
    said = {"SSL_CLIENT_CERT": f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"}
    if described := facts.getpeercert():
        leaf = x509.load_der_x509_certificate(der)
        said |= {
            "SSL_CLIENT_S_DN": _text(leaf.subject.rfc4514_string()),
            "SSL_CLIENT_S_DN_CN": _text(facts.peer_name),
            "SSL_CLIENT_I_DN": _text(leaf.issuer.rfc4514_string()),
            "SSL_CLIENT_M_SERIAL": described["serialNumber"],
            "SSL_CLIENT_V_START": described["notBefore"],
            "SSL_CLIENT_V_END": described["notAfter"],
        }
    return said


def _text(value: str) -> str:
    printable = value if value.isprintable() else ascii(value)[1:-1]
    return printable.encode("utf-8", "backslashreplace").decode("latin-1")
