"""aiohttp, as ``web.run_app`` runs it."""

from __future__ import annotations

from aiohttp import web

from tests.integrations.applications import (
    answer,
    calls,
    common_name,
    count_sendfile,
    offload,
)
from tests.integrations.harness import Task
from tests.integrations.programs.asynchronous import loop
from tests.integrations.programs.blocking import context

_task = Task.read()


async def respond(request: web.Request) -> web.StreamResponse:
    """Answer any page."""
    if request.path == "/file":
        return web.FileResponse(_task.file)
    transport = request.transport
    assert transport is not None
    facts = {
        "scheme": request.scheme,
        "peer": common_name(transport.get_extra_info("peercert")),
        "offload": offload(transport.get_extra_info("ktls")),
        "version": f"{transport.get_extra_info('cipher')[1]}",
        "address": str(request.remote),
    }
    return web.Response(body=answer(request.path, await request.read(), facts))


count_sendfile()
assert not calls()
_application = web.Application(client_max_size=2**20)
_application.router.add_route("*", "/{path:.*}", respond)
web.run_app(
    _application,
    host="127.0.0.1",
    port=_task.port,
    ssl_context=context(_task),
    loop=loop(_task.options)(),
    access_log=None,
    print=lambda *_: None,
)
