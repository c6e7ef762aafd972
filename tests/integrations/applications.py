"""The applications behind the servers: WSGI and ASGI, with the same few pages.

``/scheme``, ``/peer`` (the client's common name, or "-"), ``/offload`` ("kernel", or "relay" and
the reason's code), ``/file``, ``/sendfiles`` (os.sendfile calls so far), ``/echo``.
With WSGI also answers of unknown length: ``/whole``, and those that fail: ``/bug``, ``/reset``,
``/written``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_sendfile = os.sendfile
_calls = 0


def count_sendfile() -> None:
    """Count this process's os.sendfile calls from here on."""

    def counted(*args: Any, **kwargs: Any) -> int:
        global _calls  # noqa: PLW0603 - a process has one count
        sent = _sendfile(*args, **kwargs)
        _calls += 1
        return sent

    os.sendfile = counted


def calls() -> int:
    """Return the number of successful os.sendfile calls so far."""
    return _calls


def answer(path: str, body: bytes, facts: dict[str, str]) -> bytes:
    """Return the body of the answer to everything but /file."""
    if path == "/echo":
        return body
    if path == "/sendfiles":
        return str(calls()).encode()
    return facts[path.removeprefix("/")].encode()


def common_name(certificate: dict[str, Any] | None) -> str:
    """Return the common name of a certificate as `ssl` shapes it, or "-"."""
    for relative in (certificate or {}).get("subject", ()):
        for name, value in relative:
            if name == "commonName":
                return str(value)
    return "-"


def offload(ktls: str) -> str:
    """Spell `TLSInfo.ktls` as /offload does."""
    return ktls if ktls == "kernel" else f"relay:{ktls}"


def told(environ: dict[str, Any]) -> dict[str, str]:
    """Return what a WSGI request's variables say, by page."""
    return {"peer": environ.get("SSL_CLIENT_S_DN_CN", "-"), "offload": environ["TLSIFY_KTLS"]}


# How an answer of unknown length ends, by page. A server may take ConnectionResetError for its
# client's, though it is the application's.
_FAILURES = {"/whole": None, "/bug": ZeroDivisionError, "/reset": ConnectionResetError}


def _part(failure: type[Exception] | None) -> Iterator[bytes]:
    yield b"half"
    if failure is not None:
        raise failure


def wsgi(
    file: str, facts: Callable[[dict[str, Any]], dict[str, str]]
) -> Callable[[dict[str, Any], Any], Any]:
    """Make a WSGI application.

    Args:
        file: for /file; given to the server's wsgi.file_wrapper if it has one.
        facts: what of peer and offload a request's environment says, by page.
    """

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/file":
            size = os.path.getsize(file)
            start_response("200 OK", [("Content-Length", str(size))])
            opened = open(file, "rb")
            wrapper = environ.get("wsgi.file_wrapper")
            return wrapper(opened, 2**16) if wrapper else iter(lambda: opened.read(2**16), b"")
        if path in _FAILURES:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return _part(_FAILURES[path])
        if path == "/written":
            start_response("200 OK", [("Content-Type", "text/plain")])(b"half")
            raise ZeroDivisionError
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        said = {"scheme": environ["wsgi.url_scheme"], **facts(environ)}
        content = answer(path, body, said)
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]

    return application


def asgi(file: str, facts: Callable[[dict[str, Any]], dict[str, str]]) -> Any:
    """Make an ASGI application; arguments as `wsgi` has them, with the scope."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if path == "/file":
            with open(file, "rb") as opened:  # noqa: ASYNC230 - as applications do
                content = opened.read()
        else:
            content = answer(path, body, {"scheme": scope["scheme"], **facts(scope)})
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return application
