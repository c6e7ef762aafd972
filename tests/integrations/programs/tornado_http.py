"""Tornado's HTTP server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tornado.web import Application, RequestHandler

from tests.integrations.applications import answer, common_name, count_sendfile, offload
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import context
from tlsify.integrations.tornado import HTTPServer

task = Task.read()
count_sendfile()


class Pages(RequestHandler):
    """The applications' pages."""

    def get(self) -> None:
        """Answer."""
        if self.request.path == "/file":
            self.write(Path(task.file).read_bytes())
            return
        certificate: Any = self.request.get_ssl_certificate()
        connection: Any = self.request.connection
        said = {
            "scheme": self.request.protocol,
            "peer": common_name(certificate),
            "offload": offload(connection.stream.socket.facts.ktls),
        }
        self.write(answer(self.request.path, self.request.body, said))

    post = get


async def _serve() -> None:
    server = HTTPServer(Application([("/.*", Pages)]), ssl_options=context(task))
    server.listen(task.port, "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(_serve())
