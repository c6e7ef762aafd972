"""gunicorn's configuration file for the ASGI worker, and the application."""

from __future__ import annotations

import os
from typing import Any

import tlsify.integrations.gunicorn_asgi
from tests.integrations.applications import asgi, count_sendfile
from tests.integrations.harness import Task
from tests.integrations.programs.asynchronous import told
from tests.integrations.programs.blocking import policy

_task = Task.parse(os.environ["TASK"])

bind = f"127.0.0.1:{_task.port}"
certfile, keyfile, ca_certs = _task.cert, _task.key, _task.ca
cert_reqs = 1
workers = 1
asgi_loop = _task.options["loop"]
http_protocols = _task.options.get("protocols", "h1")
worker_class = "tlsify.integrations.gunicorn_asgi.Worker"
control_socket_disable = True
application = asgi(_task.file, told)


def ssl_context(conf: Any, default: Any) -> Any:
    """Make the context that the test wants."""
    made = tlsify.integrations.gunicorn_asgi.ssl_context(conf, default)
    made.policy = policy(_task)
    return made


def post_fork(server: object, worker: object) -> None:
    """Count in the worker."""
    del server, worker
    count_sendfile()
