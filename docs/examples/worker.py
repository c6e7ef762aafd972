#!/usr/bin/env python3
"""worker SOCKET FOLDER: an aiohttp application whose connections tlsify forward sends.

tlsify forward --cert cert.pem --key key.pem :443 --pass-fd unix:SOCKET --aware
"""

import asyncio
import signal
import sys

from aiohttp import web

from tlsify.aio.receiving import Receiving
from tlsify.aio.transport import attach


async def hello(request: web.Request) -> web.Response:
    """Say what is known of the client."""
    facts = request.transport.get_extra_info("ssl_object")
    names = [facts.version(), facts.server_hostname, facts.ktls]
    return web.Response(text=f"{request.scheme} {request.remote} {' '.join(map(str, names))}\n")


async def main(path: str, folder: str) -> None:
    """Serve until SIGTERM, then finish what has begun."""
    application = web.Application()
    application.router.add_get("/hello", hello)
    application.router.add_static("/", folder)
    runner = web.AppRunner(application)
    await runner.setup()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Receiving(path, lambda handed, _: attach(runner.server, handed)) as receiving:
        await stop.wait()
        receiving.close()
        await runner.cleanup()


asyncio.run(main(*sys.argv[1:]))
