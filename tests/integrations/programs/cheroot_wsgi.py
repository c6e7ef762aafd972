"""cheroot's WSGI server."""

from __future__ import annotations

import ssl

from cheroot.wsgi import Server

from tests.integrations.applications import count_sendfile, told, wsgi
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import policy
from tlsify.integrations.cheroot import Adapter

task = Task.read()
count_sendfile()
threads = int(task.options.get("threads", 10))
server = Server(("127.0.0.1", task.port), wsgi(task.file, told), threads, timeout=10)
server.ssl_adapter = Adapter(task.cert, task.key, task.ca)
server.ssl_adapter.context.verify_mode = ssl.CERT_OPTIONAL
server.ssl_adapter.context.policy = policy(task)
server.start()
