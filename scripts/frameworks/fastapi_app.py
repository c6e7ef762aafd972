"""FastAPI, with a request's scope as its own code sees it."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse

from tlsify.integrations.asgi import TlsExtension

application = FastAPI()


@application.get("/")
async def front(request: Request) -> dict[str, Any]:
    """Return how the request came."""
    tls = request.scope.get("extensions", {}).get("tls", {})
    return {"secure": request.url.scheme == "https", "ktls": tls.get("ktls")}


@application.get("/file")
async def file() -> FileResponse:
    """Send the file."""
    return FileResponse(os.environ["FILE"])


asgi = TlsExtension(application)
