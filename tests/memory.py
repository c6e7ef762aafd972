"""Search another process's memory, as an intruder would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

if TYPE_CHECKING:
    from collections.abc import Iterable

_LARGEST = 2**30


def forms(pem: bytes) -> set[bytes]:
    """Return the forms in which a program may have an EC key: text, DER, OpenSSL's number."""
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number, size = key.private_numbers().private_value, (key.key_size + 7) // 8
    return {pem.splitlines()[1], *(number.to_bytes(size, order) for order in ("big", "little"))}


def holds(pid: int, wanted: Iterable[bytes], *, stack: bool = True) -> set[bytes]:
    """Return which of these bytes strings are in a process's writable memory.

    Args:
        pid: the process.
        wanted: what is searched for.
        stack: whether on the stack of its main thread, too.
    """
    found: set[bytes] = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            start, end = (int(each, 16) for each in span.split("-"))
            if not rights.startswith("rw") or end - start > _LARGEST:
                continue
            if not stack and line.endswith("[stack]\n"):
                continue
            memory.seek(start)
            try:
                content = memory.read(end - start)
            except OSError:  # pages of a device
                continue
            found |= {each for each in wanted if each in content}
    return found
