"""What gunicorn and uvicorn serve: files of a folder, and the digest of what is uploaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

_ROOT = Path(os.environ.get("SERVED", "."))
_PIECE = 2**16


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer gunicorn."""
    if environ["REQUEST_METHOD"] == "GET":
        path = _ROOT / environ["PATH_INFO"].lstrip("/")
        start_response("200 OK", [("Content-Length", str(path.stat().st_size))])
        wrapper: Any = environ.get("wsgi.file_wrapper", FileWrapper)
        answer: Iterable[bytes] = wrapper(path.open("rb"))
        return answer
    digest = hashlib.sha256()
    while data := environ["wsgi.input"].read(_PIECE):
        digest.update(data)
    body = digest.hexdigest().encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer uvicorn."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        body = (_ROOT / scope["path"].lstrip("/")).read_bytes()
    else:
        digest, message = hashlib.sha256(), dict[str, Any](more_body=True)
        while message.get("more_body"):
            message = await receive()
            digest.update(message.get("body", b""))
        body = digest.hexdigest().encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
