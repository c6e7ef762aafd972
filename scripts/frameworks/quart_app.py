"""Quart."""

from __future__ import annotations

import os
from typing import Any

from quart import Quart, Response, request, send_file

from tlsify.integrations.asgi import TlsExtension

application = Quart(__name__)


@application.get("/")
async def front() -> dict[str, Any]:
    """Return how the request came."""
    tls = (request.scope.get("extensions") or {}).get("tls", {})
    return {"secure": request.is_secure, "ktls": tls.get("ktls")}


@application.get("/file")
async def file() -> Response:
    """Send the file."""
    return await send_file(os.environ["FILE"])


asgi = TlsExtension(application)
