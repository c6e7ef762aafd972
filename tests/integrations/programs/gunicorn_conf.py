"""gunicorn's configuration file, and the application."""

from __future__ import annotations

import os
from typing import Any

import tlsify.integrations.gunicorn
from tests.integrations.applications import count_sendfile, told, wsgi
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import policy

_task = Task.parse(os.environ["TASK"])

bind = f"127.0.0.1:{_task.port}"
certfile, keyfile, ca_certs = _task.cert, _task.key, _task.ca
cert_reqs = 1
workers = int(_task.options.get("workers", 1))
threads = int(_task.options.get("threads", 8)) if _task.options["worker"] == "ThreadWorker" else 1
timeout = int(_task.options.get("timeout", 30))
worker_class = f"tlsify.integrations.gunicorn.{_task.options['worker']}"
control_socket_disable = True
application = wsgi(_task.file, told)

if _task.ktls != "auto":

    def ssl_context(conf: Any, default: Any) -> Any:
        """Make the context that the test wants."""
        del default
        return tlsify.integrations.gunicorn.make_context(conf, policy(_task))


def post_fork(server: object, worker: object) -> None:
    """Count in the worker."""
    del server, worker
    count_sendfile()
