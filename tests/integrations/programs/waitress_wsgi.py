"""waitress."""

from __future__ import annotations

from tests.integrations.applications import count_sendfile, told, wsgi
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import context
from tlsify.integrations.waitress import serve

task = Task.read()
count_sendfile()
serve(wsgi(task.file, told), context(task), listen=f"127.0.0.1:{task.port}")
