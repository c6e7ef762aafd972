"""Twisted's web server."""

from __future__ import annotations

import resource
from typing import Any

from twisted.internet import reactor as installed
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import File

from tests.integrations.applications import answer, count_sendfile, offload
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import context
from tlsify.integrations.twisted import Endpoint

task = Task.read()
count_sendfile()


class Pages(Resource):
    """The applications' pages."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        """Answer."""
        path = request.path.decode()
        if path == "/file":
            return File(task.file).render(request)  # type: ignore[no-untyped-call]
        transport = request.channel.transport
        certificate = transport.getPeerCertificate()
        said = {
            "scheme": "https" if request.isSecure() else "http",
            "peer": certificate.get_subject().CN if certificate else "-",
            "offload": offload(transport.facts.ktls),
        }
        return answer(path, request.content.read(), said)


if "descriptors" in task.options:
    number = int(task.options["descriptors"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
reactor: Any = installed
factory = Site(Pages())  # type: ignore[no-untyped-call]
Endpoint(reactor, task.port, context(task), "127.0.0.1").listen(factory)
reactor.run()
