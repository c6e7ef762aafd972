"""Seal and open single records with TrafficKeys, in userspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.errors import PeerMisbehaved
from tlsify.tls.record import HEADER_LENGTH

if TYPE_CHECKING:
    from tlsify.keys import TrafficKeys

TAG_LENGTH = 16
_EXPLICIT = 8


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


def _cipher(keys: TrafficKeys) -> _Cipher:
    key = keys.key
    match keys.suite.aead:
        case Aead.AES_GCM_128 | Aead.AES_GCM_256:
            return AESGCM(key)
        case Aead.AES_CCM_128:
            return AESCCM(key, TAG_LENGTH)
        case Aead.CHACHA20_POLY1305:
            return ChaCha20Poly1305(key)


def _xor_nonce(keys: TrafficKeys, seq: int) -> bytes:
    """RFC 8446 5.3; RFC 7905 2."""
    return (int.from_bytes(keys.iv, "big") ^ seq).to_bytes(len(keys.iv), "big")


def _header(content_type: int, length: int) -> bytes:
    return bytes([content_type, 3, 3]) + length.to_bytes(2, "big")


def seal_record(keys: TrafficKeys, seq: int, content_type: ContentType, payload: bytes) -> bytes:
    """Build one protected record, header included.

    Args:
        keys: of the sending direction. TLS 1.2 GCM and CCM take the explicit nonce from its iv,
            counted on from ``keys.seq`` to ``seq``.
        seq: this record's number.
        content_type: goes inside in TLS 1.3, into the header in TLS 1.2.
        payload: at most 2**14 bytes.
    """
    cipher = _cipher(keys)
    if keys.suite.version is ProtocolVersion.TLSv1_3:
        inner = payload + bytes([content_type])
        header = _header(ContentType.application_data, len(inner) + TAG_LENGTH)
        return header + cipher.encrypt(_xor_nonce(keys, seq), inner, header)
    aad = seq.to_bytes(8, "big") + _header(content_type, len(payload))
    if not keys.suite.aead.has_explicit_nonce:
        sealed = cipher.encrypt(_xor_nonce(keys, seq), payload, aad)
        return _header(content_type, len(sealed)) + sealed
    start = int.from_bytes(keys.iv[4:], "big")
    explicit = ((start + seq - keys.seq) % 2**64).to_bytes(_EXPLICIT, "big")
    sealed = explicit + cipher.encrypt(bytes(keys.iv[:4]) + explicit, payload, aad)
    return _header(content_type, len(sealed)) + sealed


def open_record(keys: TrafficKeys, seq: int, record: bytes) -> tuple[int, bytes]:
    """Open one protected record.

    Args:
        keys: of the direction that sent it.
        seq: this record's number.
        record: header included.

    Returns:
        The content type (any byte) and the payload without padding.

    Raises:
        PeerMisbehaved: it does not open (bad_record_mac), or holds no content type.
    """
    header, body = record[:HEADER_LENGTH], record[HEADER_LENGTH:]
    try:
        if keys.suite.version is ProtocolVersion.TLSv1_3:
            inner = _cipher(keys).decrypt(_xor_nonce(keys, seq), body, header).rstrip(b"\0")
            if not inner:
                msg = "record without a content type"
                raise PeerMisbehaved(msg, alert=AlertDescription.unexpected_message)
            return inner[-1], inner[:-1]
        nonce = _xor_nonce(keys, seq)
        if keys.suite.aead.has_explicit_nonce:
            nonce, body = bytes(keys.iv[:4]) + body[:_EXPLICIT], body[_EXPLICIT:]
        aad = seq.to_bytes(8, "big") + _header(header[0], max(len(body) - TAG_LENGTH, 0))
        return header[0], _cipher(keys).decrypt(nonce, body, aad)
    except (InvalidTag, ValueError) as exc:
        msg = "record does not authenticate"
        raise PeerMisbehaved(msg, alert=AlertDescription.bad_record_mac) from exc
