"""Whether an end of TLS without close_notify is a cut: by choice, or by the protocol."""

from __future__ import annotations

import re

from tlsify.config import ClosePolicy

# ALPN's names of HTTP over TLS (IANA).
_HTTP = {b"http/0.9", b"http/1.0", b"http/1.1", b"h2"}
# A request line (RFC 9112 3); HTTP/2 begins with one, too (RFC 9113 3.4).
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^ \r\n]+ HTTP/\d\.\d\r?\n")
# How long it may be: servers should take at least 8000 bytes (RFC 9112 3).
_LONGEST = 2**14


class Closing:
    """One connection's rule, settled at the latest by what its client sends first.

    HTTP tells by itself whether a message is complete, and its clients often hang up (RFC 9112
    9.8); in other protocols an end without close_notify may be half a message.
    """

    def __init__(self, policy: ClosePolicy | None, alpn: bytes | None) -> None:
        """Settle it if that is possible beforehand.

        Args:
            policy: the user's choice; None leaves it to the protocol.
            alpn: the protocol agreed on, or None.
        """
        self._is_relaxed: bool | None = None
        if policy is not None:
            self._is_relaxed = policy is ClosePolicy.RELAXED
        elif alpn is not None:
            self._is_relaxed = alpn in _HTTP
        self._begun = b""

    @property
    def is_relaxed(self) -> bool:
        """Whether such an end is an ordinary one."""
        return self._is_relaxed is True

    def look(self, data: bytes | memoryview) -> None:
        """Inspect the client's data, until its first line is complete."""
        if self._is_relaxed is not None:
            return
        self._begun = (self._begun + data).lstrip(b"\r\n")[:_LONGEST]  # empty lines: RFC 9112 2.2
        if b"\n" in self._begun or len(self._begun) == _LONGEST:
            self._is_relaxed = _REQUEST_LINE.match(self._begun) is not None
            self._begun = b""
