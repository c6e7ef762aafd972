"""Applications for servers that their own commands run, with `tlsify.integrations`."""

from __future__ import annotations

import os

from tests.integrations.applications import asgi, wsgi
from tests.integrations.applications import told as told_by_wsgi
from tests.integrations.harness import Task
from tests.integrations.programs.asynchronous import told
from tlsify.integrations.asgi import TlsExtension

_task = Task.parse(os.environ["TASK"])
wsgi_application = wsgi(_task.file, told_by_wsgi)
asgi_application = TlsExtension(asgi(_task.file, told))
