"""http.server, with files and with pages."""

from __future__ import annotations

from pathlib import Path

from tests.integrations.applications import answer, common_name, count_sendfile, offload
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import context
from tlsify.integrations.socketserver import FileHandler, ThreadingHTTPSServer
from tlsify.sslcontext.socket import SSLSocket

task = Task.read()
count_sendfile()


class Pages(FileHandler):
    """The applications' pages."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a file or a page."""
        if self.path == "/file":
            self.path = f"/{Path(task.file).name}"
            super().do_GET()
            return
        assert isinstance(self.connection, SSLSocket)
        facts = self.connection.facts
        said = {
            "scheme": "https",
            "peer": common_name(facts.getpeercert()),
            "offload": offload(facts.ktls),
        }
        length = int(self.headers.get("Content-Length") or 0)
        body = answer(self.path, self.rfile.read(length), said)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


def pages(*arguments: object) -> Pages:
    """Make a handler for the file's folder."""
    return Pages(*arguments, directory=str(Path(task.file).parent))  # type: ignore[arg-type]


ThreadingHTTPSServer(("127.0.0.1", task.port), pages, context=context(task)).serve_forever()
