"""hypercorn, on tlsify's loop."""

from __future__ import annotations

import ssl

from tests.integrations.applications import asgi, count_sendfile
from tests.integrations.harness import Task
from tests.integrations.programs.asynchronous import told
from tests.integrations.programs.blocking import policy
from tlsify.integrations.asgi import TlsExtension
from tlsify.integrations.hypercorn import Config, run

_task = Task.read()
_config = Config()
_config.bind = f"127.0.0.1:{_task.port}"
_config.certfile, _config.keyfile, _config.ca_certs = _task.cert, _task.key, _task.ca
_config.verify_mode = ssl.CERT_OPTIONAL
_config.policy = policy(_task)
_config.loglevel = "WARNING"
count_sendfile()
run(TlsExtension(asgi(_task.file, told)), _config)
