"""Text in logs: addresses, moments, and what peers have sent, escaped."""

from __future__ import annotations

import time

_MILLI = 1000


def printable(text: str) -> str:
    """Escape what would do more to a terminal than show a character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def split_address(name: object) -> tuple[str | None, int | None]:
    """Return host and port of an address as ``accept`` gives it; None for what it does not have.

    An IPv4 address is itself, also where an IPv6 socket has accepted its connection.
    """
    if not isinstance(name, tuple):
        return None, None
    host = str(name[0])
    mapped = host.removeprefix("::ffff:")
    return (mapped if "." in mapped else host), int(name[1])


def spell_address(name: object) -> str:
    """Spell an address as ``accept`` gives it: HOST:PORT, [HOST]:PORT, or "unix"."""
    host, port = split_address(name)
    if host is None:
        return "unix"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def moment(now: float | None = None) -> str:
    """Spell a time in UTC as RFC 3339 has it, such as ``2026-11-30T05:00:00.123Z``.

    Args:
        now: seconds since 1970; the present time if None.
    """
    milliseconds = int((time.time() if now is None else now) * _MILLI)
    seconds, rest = divmod(milliseconds, _MILLI)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:03}Z"
