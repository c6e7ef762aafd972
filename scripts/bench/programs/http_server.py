"""aiohttp with the files of the working folder, over one carrier or another.

Usage: http_server.py WAY PORT CERTIFICATE KEY; for "application" and gunicorn it is a WSGI module.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_BACKLOG = 1024
_ENABLE_KTLS = 8  # ssl.OP_ENABLE_KTLS, which Python 3.11 has no name for


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with a file, as WSGI has it: ``wsgi.file_wrapper`` is where sendfile hides."""
    path = Path.cwd() / environ["PATH_INFO"].lstrip("/")
    start_response("200 OK", [("Content-Length", str(path.stat().st_size))])
    wrap = environ["wsgi.file_wrapper"]
    wrapped: Iterable[bytes] = wrap(path.open("rb"))
    return wrapped


def _context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _ours(certificate: str, key: str) -> ssl.SSLContext:
    from tlsify.sslcontext.context import SSLContext

    return SSLContext.for_server(certificate, key)


async def _serve(port: int, context: ssl.SSLContext | None) -> None:
    from aiohttp import web

    app = web.Application()
    app.router.add_static("/", Path.cwd())
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, backlog=_BACKLOG).start()
    await asyncio.Event().wait()


def _main(way: str, port: int, certificate: str, key: str) -> None:
    make_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    context = None
    if way == "tlsify":
        from tlsify.aio.loop import new_event_loop

        make_loop, context = new_event_loop, _ours(certificate, key)
    elif way == "aiofastnet":
        import aiofastnet

        context = _context(certificate, key)
        context.options |= _ENABLE_KTLS
        aiofastnet.install_policy()
    elif way == "ssl":
        context = _context(certificate, key)
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(_serve(port, context))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
