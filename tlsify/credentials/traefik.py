"""Traefik's acme.json: its certificates with their keys."""

from __future__ import annotations

import binascii
import json
from typing import TYPE_CHECKING, Any

from tlsify.credentials.reading import TRAEFIKS, read_file
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> dict[str, tuple[bytes, bytes]]:
    """Return the file's certificates: by name, the chain and the key, in PEM.

    Their names are RESOLVER/NAME, with a number where that is taken.

    Raises:
        ConfigError: it cannot be read, or is in another format.
    """
    return _parse(read_file(path, TRAEFIKS, waits=False), str(path))


def _parse(content: bytes, path: str) -> dict[str, tuple[bytes, bytes]]:
    found: dict[str, tuple[bytes, bytes]] = {}
    try:
        resolvers: dict[str, Any] = json.loads(content)
        for resolver, kept in resolvers.items():
            for stored in kept.get("Certificates") or ():
                name = f"{resolver}/{stored['domain']['main']}"
                if name in found:
                    name = f"{name}, {len(found)}"
                found[name] = _decode(stored["certificate"]), _decode(stored["key"])
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(
            f"{path} is not a certificate file of Traefik 2 or 3",
            hint="move it away, or dump it to files",
        ) from exc
    return found


def _decode(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)
