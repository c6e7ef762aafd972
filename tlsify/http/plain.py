"""Requests in plain HTTP where HTTPS is meant: refuse or redirect them."""

from __future__ import annotations

import re

from tlsify.http.answer import Answer, refusal, short

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
_HTTP, _HTTPS = b":80", 443
_TEXT = "400: this port speaks HTTPS, and got a request over plain HTTP\n"


def answer(received: bytes, *, redirect: bool = False) -> bytes:
    """Return the answer to a client that speaks plain HTTP on a port for HTTPS.

    Args:
        received: its first bytes, five or more.
        redirect: whether to send it to the same place by HTTPS, if that place can be read there.

    Returns:
        The answer; empty if the client speaks no HTTP.
    """
    method = received.partition(b" ")[0]
    if not any(each.startswith(method) and len(method) >= min(len(each), 5) for each in _METHODS):
        return b""
    found = _REQUEST.match(received) if redirect else None
    if found is None:
        return short(400, _TEXT).spell(with_content=method != b"HEAD")
    port = found[4] or b""
    return _redirection(found, b"" if port == _HTTP else port).spell()


def redirection(head: bytes, port: int) -> Answer:
    """Return the answer to a request on a port for plain HTTP: the same place by HTTPS.

    Args:
        head: of the request; empty if it was too long.
        port: for HTTPS.
    """
    found = _REQUEST.match(head)
    if found is None:
        return refusal(400 if head else 431)
    return _redirection(found, b"" if port == _HTTPS else b":%d" % port)


def _redirection(request: re.Match[bytes], port: bytes) -> Answer:
    method, target, host = request[1], request[2], request[3]
    # A browser may turn a POST into a GET at 301, which loses what was sent.
    status = 301 if method in {b"GET", b"HEAD"} else 308
    place = b"https://" + host + port + target
    return Answer(status, {"Location": place.decode("ascii"), "Content-Length": "0"})
