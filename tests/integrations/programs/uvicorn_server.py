"""uvicorn, as ``uvicorn.run`` runs it."""

from __future__ import annotations

import ssl
from typing import Any

import uvicorn

from tests.integrations.applications import asgi, count_sendfile
from tests.integrations.harness import Task
from tests.integrations.programs.asynchronous import told
from tests.integrations.programs.blocking import policy
from tlsify.integrations.asgi import TlsExtension
from tlsify.integrations.uvicorn import ssl_context_factory

_task = Task.read()
_LOOPS = {
    "asyncio": "tlsify.aio.loop:EventLoop",
    "uvloop": "tlsify.integrations.uvloop:EventLoop",
}


def make(config: uvicorn.Config, default: Any) -> ssl.SSLContext:
    """Make the context of uvicorn's settings, with the policy that the test wants."""
    context = ssl_context_factory(config, default)
    context.policy = policy(_task)
    return context


count_sendfile()
uvicorn.run(
    TlsExtension(asgi(_task.file, told)),
    host="127.0.0.1",
    port=_task.port,
    loop=_LOOPS[_task.options["loop"]],
    http=_task.options["http"],
    ssl_certfile=_task.cert,
    ssl_keyfile=_task.key,
    ssl_ca_certs=_task.ca,
    ssl_cert_reqs=ssl.CERT_OPTIONAL,
    ssl_context_factory=make,
    log_level="warning",
)
