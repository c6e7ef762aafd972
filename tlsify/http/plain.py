"""Plain HTTP on a port for HTTPS: recognize a request, and refuse or redirect it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from tlsify.http.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

_METHODS = (
    *(b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"),
    *(b"PROPFIND", b"REPORT", b"MKCOL", b"COPY", b"MOVE", b"LOCK"),
)
# A request whose target and authority can be spelled again as they are. No control character gets
# into a field: "." and [!-~] have none.
_REQUEST = re.compile(
    rb"([A-Z]+) (/[!-~]*) HTTP/1\.[01]\r?\n(?:[^\r\n]+\r?\n)*?"
    rb"host:[\t ]*([0-9a-z._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?[\t ]*\r?\n",
    re.IGNORECASE,
)
_CHALLENGE = re.compile(
    rb"GET /\.well-known/acme-challenge/([A-Za-z0-9_-]{16,256}) HTTP/1\.[01]\r?\n"
)
_HTTP = b":80"
_TEXT = b"400: this port speaks HTTPS, and got a request over plain HTTP\n"


Challenge: TypeAlias = "Callable[[str], str | None]"


def answer(received: bytes, *, redirect: bool = False, challenge: Challenge | None = None) -> bytes:
    """Return the answer to a client that speaks plain HTTP; empty if it does not.

    Args:
        received: its first bytes, five or more.
        redirect: whether to send it to the same place by HTTPS, if that place can be read there.
        challenge: returns the key authorization of a token that is pending, by which an ACME
            authority sees that this is the host that it means (RFC 8555 8.3).
    """
    if challenge is not None and (shown := show(received, challenge)):
        return shown
    method = received.partition(b" ")[0]
    if not any(each.startswith(method) and len(method) >= min(len(each), 5) for each in _METHODS):
        return b""
    found = _REQUEST.match(received) if redirect else None
    if found is None:
        content = b"" if method == b"HEAD" else _TEXT
        fields = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(_TEXT))}
        return Answer(400, fields).head("close") + content
    _, target, host, port = (each or b"" for each in found.groups())
    place = b"https://" + host + (b"" if port == _HTTP else port) + target
    # A browser may turn a POST into a GET at 301, which loses what was sent.
    status = 301 if method in {b"GET", b"HEAD"} else 308
    fields = {"Location": place.decode("ascii"), "Content-Length": "0"}
    return Answer(status, fields).head("close")


def show(received: bytes, challenge: Challenge) -> bytes:
    """Return the answer to an authority that looks for a challenge; empty if it does not."""
    found = _CHALLENGE.match(received)
    text = None if found is None else challenge(found[1].decode("ascii"))
    if text is None:
        return b""
    content = text.encode("ascii")
    fields = {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))}
    return Answer(200, fields).head("close") + content
