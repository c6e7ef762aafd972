"""gunicorn's configuration file, and the application."""

from __future__ import annotations

import errno
import os
import resource
from typing import Any

import tlsify.integrations.gunicorn
from tests.integrations.applications import count_sendfile, told, wsgi
from tests.integrations.harness import Task
from tests.integrations.programs.blocking import policy
from tlsify.sslcontext.socket import SSLSocket

_task = Task.parse(os.environ["TASK"])

bind = f"127.0.0.1:{_task.port}"
certfile, keyfile, ca_certs = _task.cert, _task.key, _task.ca
cert_reqs = 1
workers = int(_task.options.get("workers", 1))
threads = int(_task.options.get("threads", 8)) if _task.options["worker"] == "ThreadWorker" else 1
worker_connections = int(_task.options.get("worker_connections", 1000))
max_requests = int(_task.options.get("max_requests", 0))
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


def post_worker_init(worker: Any) -> None:
    """Leave the worker short of what the test wants it to be short of."""
    if _task.options.get("short") != "yes":
        return
    lowest = os.dup(0)
    os.close(lowest)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 30, hard))
    register = worker.poller.register

    def fail_once(sock: Any, *arguments: Any) -> None:
        if not isinstance(sock, SSLSocket):
            register(sock, *arguments)
            return
        worker.poller.register = register
        raise OSError(errno.ENOSPC, "no more watches")

    worker.poller.register = fail_once
