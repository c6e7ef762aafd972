"""Pending challenges, in memory that a server's processes share: no file, and no right to one."""

from __future__ import annotations

import json
import mmap
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509

from tlsify.config import ServerConfig
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import TlsifyError
from tlsify.tls.challenge import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Mapping

# A hundred names of the longest, each with its challenge.
_SIZE = 2**16
_LENGTH, _SUM = slice(4), slice(4, 8)
_HEAD = 8
# An authority looks several times, from several places.
_SHOWN = 16
_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTET_STRING = b"\x04\x20"  # of 32 bytes


def encode(tls: Mapping[str, bytes], http: Mapping[str, str]) -> bytes:
    """Write challenges, as `Board.publish` takes them.

    Raises:
        TlsifyError: there is no room for so many.
    """
    found = [{name: digest.hex() for name, digest in tls.items()}, dict(http)]
    text = json.dumps(found).encode()
    if _HEAD + len(text) > _SIZE:
        raise TlsifyError("too many challenges at once", hint="order fewer names together")
    return text


class Board:
    """What one process publishes, for all that are forked from the one that has made it.

    There is one writer at a time; a reader that comes while it writes finds nothing.
    """

    def __init__(self) -> None:
        """Make it, empty.

        Raises:
            OSError: there is no memory.
        """
        self._memory = mmap.mmap(-1, _SIZE)

    def publish(self, tls: Mapping[str, bytes], http: Mapping[str, str]) -> None:
        """Replace what is pending.

        Args:
            tls: SHA-256 of key authorizations, by names (TLS-ALPN-01).
            http: key authorizations, by tokens (HTTP-01).

        Raises:
            TlsifyError: there is no room for so many.
        """
        self.show(encode(tls, http))

    def show(self, text: bytes) -> None:
        """Replace what is pending by what `encode` has written; empty clears it."""
        self._memory[_HEAD : _HEAD + len(text)] = text
        self._memory[_SUM] = zlib.crc32(text).to_bytes(4, "big")
        self._memory[_LENGTH] = len(text).to_bytes(4, "big")

    def clear(self) -> None:
        """Have nothing pending."""
        self._memory[_LENGTH] = bytes(4)

    def _read(self) -> tuple[dict[str, str], dict[str, str]]:
        length = int.from_bytes(self._memory[_LENGTH], "big")
        text = self._memory[_HEAD : _HEAD + length]
        if not length or zlib.crc32(text).to_bytes(4, "big") != self._memory[_SUM]:
            return {}, {}
        tls, http = json.loads(text)
        return tls, http

    def tls(self, name: str) -> ServerConfig | None:
        """Return the configuration that shows the challenge for a name; None if none is pending."""
        found = self._read()[0].get(name)
        return None if found is None else _showing(name, bytes.fromhex(found))

    def http(self, token: str) -> str | None:
        """Return the key authorization of a token; None if that challenge is not pending."""
        return self._read()[1].get(token)


@lru_cache(maxsize=_SHOWN)
def _showing(name: str, digest: bytes) -> ServerConfig:
    """Make a certificate for a challenge (RFC 8737 3), and the configuration that shows it."""
    shown = x509.UnrecognizedExtension(_IDENTIFIER, _OCTET_STRING + digest)
    return ServerConfig(key_pair=make_key_pair([name], shown), alpn=(PROTOCOL,))
