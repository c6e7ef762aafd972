"""CherryPy, with an application of its own kind."""

from __future__ import annotations

import ssl

import cherrypy
from cheroot import server

from tests.integrations.applications import answer, count_sendfile, told
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import context

task = Task.read()
count_sendfile()


class Pages:
    """The applications' pages."""

    @cherrypy.expose  # type: ignore[untyped-decorator]
    def default(self, page: str) -> object:
        """Answer."""
        request = cherrypy.request
        if page == "file":
            return cherrypy.lib.static.serve_file(task.file)
        body = request.body.read() if request.method == "POST" else b""
        return answer(f"/{page}", body, {"scheme": request.scheme, **told(request.wsgi_environ)})


adapters: dict[str, str] = vars(server)["ssl_adapters"]
adapters["tlsify"] = "tlsify.integrations.cheroot.Adapter"
made = context(task)
made.verify_mode = ssl.CERT_OPTIONAL
cherrypy.config.update(
    {
        "server.socket_host": "127.0.0.1",
        "server.socket_port": task.port,
        "server.thread_pool": int(task.options.get("threads", 10)),
        "server.ssl_module": "tlsify",
        "server.ssl_certificate": task.cert,
        "server.ssl_private_key": task.key,
        "server.ssl_context": made,
        "engine.autoreload.on": False,
        "request.process_request_body": True,
    }
)
cherrypy.quickstart(Pages(), config={"/": {"request.body.processors": {}}})
