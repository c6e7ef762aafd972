"""Flask, behind a WSGI server; run as a program, on its own development server."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, request, send_file

from tlsify.sslcontext.context import SSLContext

application = Flask(__name__)


@application.get("/")
def front() -> dict[str, Any]:
    """Return how the request came."""
    return {"secure": request.is_secure, "ktls": request.environ.get("TLSIFY_KTLS")}


@application.get("/file")
def file() -> Response:
    """Send the file."""
    return send_file(os.environ["FILE"])


if __name__ == "__main__":
    context = SSLContext.for_server(os.environ["CERT"], os.environ["KEY"])
    application.run(port=int(os.environ["PORT"]), ssl_context=context)
