"""wsgiref's server."""

from __future__ import annotations

from tests.integrations.applications import count_sendfile, told, wsgi
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import context
from tlsify.integrations.wsgiref import make_server

task = Task.read()
count_sendfile()
make_server("127.0.0.1", task.port, wsgi(task.file, told), context(task)).serve_forever()
