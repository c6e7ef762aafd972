"""Sanic, whose own server runs on tlsify's loop; with the word ``run``, on Sanic's choice."""

from __future__ import annotations

import asyncio
import os
import sys

from sanic import HTTPResponse, Request, Sanic, response

from tlsify.aio import EventLoop
from tlsify.sslcontext.context import SSLContext

application = Sanic("tried")


@application.get("/")
async def front(request: Request) -> HTTPResponse:
    """Return how the request came."""
    ktls = request.transport.get_extra_info("ssl_object").ktls
    return response.json({"secure": request.scheme == "https", "ktls": ktls})


@application.get("/file")
async def file(_: Request) -> HTTPResponse:
    """Send the file."""
    return await response.file(os.environ["FILE"])


async def main(port: int, context: SSLContext) -> None:
    """Serve as long as the loop runs."""
    server = await application.create_server(port=port, ssl=context, return_asyncio_server=True)
    await server.startup()
    await server.serve_forever()


if __name__ == "__main__":
    listening = int(os.environ["PORT"])
    made = SSLContext.for_server(os.environ["CERT"], os.environ["KEY"])
    if "run" in sys.argv:
        application.run(port=listening, ssl=made, single_process=True)
    else:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(main(listening, made))
