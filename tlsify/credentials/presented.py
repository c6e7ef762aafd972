"""Identifiers in a certificate: each entry of its subjectAltName, parsed separately."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from tlsify.credentials.der import SEQUENCE, elements
from tlsify.names import IdKind

if TYPE_CHECKING:
    from collections.abc import Iterator

# DER identifier octets (X.690 8.1.2), and the numbers of GeneralName (RFC 5280 4.2.1.6).
_OBJECT_IDENTIFIER, _OCTET_STRING, _IA5_STRING = 0x06, 0x04, 0x16
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_V3 = bytes.fromhex("020102")  # the only version that has extensions (RFC 5280 4.1.2.1)
_OTHER_NAME = 0xA0
_KINDS = {0x82: IdKind.DNS, 0x86: IdKind.URI, 0x87: IdKind.IP}
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")  # 2.5.29.17
_DNS_SRV = bytes.fromhex("2b06010505070807")  # 1.3.6.1.5.5.7.8.7, RFC 4985


class Presented(NamedTuple):
    """One identifier that a certificate presents, as its issuer wrote it.

    Attributes:
        kind: DNS, IP, SRV or URI; other kinds identify no host.
        value: the bytes of an address, or of text that should be ASCII.
    """

    kind: IdKind
    value: bytes

    @property
    def text(self) -> str:
        """Spell it for people: the issuer chose these bytes, and a terminal may read them."""
        if self.kind is IdKind.IP:
            try:
                return str(ipaddress.ip_address(self.value))
            except ValueError:
                return self.value.hex() or "none"
        text = self.value.decode("utf-8", "backslashreplace")
        if text.isprintable():
            return text
        return text.encode("unicode_escape").decode("ascii")


def read(certificate: bytes) -> tuple[Presented, ...]:
    """Return a certificate's identifiers; an invalid one does not affect others (RFC 9525 6.3).

    Libraries refuse the whole list for one entry that is no name, such as a dNSName in UTF-8.

    Args:
        certificate: in DER.

    Returns:
        In the certificate's order; none if it has no such list, or two, or one that is cut short.
    """
    try:
        (value,) = _extensions(certificate, _SUBJECT_ALT_NAME)
        (names,) = (content for tag, content in elements(value) if tag == SEQUENCE)
        found = [_general_name(tag, content) for tag, content in elements(names)]
    except ValueError:
        return ()
    return tuple(name for name in found if name is not None)


def _extensions(certificate: bytes, wanted: bytes) -> Iterator[bytes]:
    """Find extensions of a kind (RFC 5280 4.1)."""
    ((_, signed),) = elements(certificate)
    (_, to_be_signed), _, _ = elements(signed)
    fields = list(elements(to_be_signed))
    for tag, content in fields:
        if tag == _EXTENSIONS and fields[0] == (_VERSION, _V3):
            ((_, extensions),) = elements(content)
            for _, extension in elements(extensions):
                parts = list(elements(extension))
                is_wanted = parts[:1] == [(_OBJECT_IDENTIFIER, wanted)]
                if is_wanted and parts[-1][0] == _OCTET_STRING:
                    yield parts[-1][1]


def _general_name(tag: int, content: bytes) -> Presented | None:
    if tag == _OTHER_NAME:
        return _srv_name(content)
    return Presented(_KINDS[tag], content) if tag in _KINDS else None


def _srv_name(other: bytes) -> Presented | None:
    """Read an otherName, if it is an SRVName (RFC 4985)."""
    try:
        identifier, (_, explicit) = elements(other)
        ((tag, name),) = elements(explicit)
    except ValueError:
        return None
    is_srv = identifier == (_OBJECT_IDENTIFIER, _DNS_SRV) and tag == _IA5_STRING
    return Presented(IdKind.SRV, name) if is_srv else None
