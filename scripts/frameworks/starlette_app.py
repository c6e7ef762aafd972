"""Starlette."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route

from tlsify.integrations.asgi import TlsExtension

if TYPE_CHECKING:
    from starlette.requests import Request


async def front(request: Request) -> JSONResponse:
    """Return how the request came."""
    tls = request.scope.get("extensions", {}).get("tls", {})
    return JSONResponse({"secure": request.url.scheme == "https", "ktls": tls.get("ktls")})


async def file(_: Request) -> FileResponse:
    """Send the file."""
    return FileResponse(os.environ["FILE"])


asgi = TlsExtension(Starlette(routes=[Route("/", front), Route("/file", file)]))
