"""Tests of gunicorn: its workers, unmodified."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doubles import until
from tests.integrations.harness import Served, arrange
from tests.integrations.trials import Server, trials
from tests.interop.programs import TIMEOUT

if TYPE_CHECKING:
    import trustme

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

SYNC = Server(
    "gunicorn (sync)",
    "gunicorn_server",
    "gunicorn",
    keeps_alive=False,
    sendfile=True,
    options={"worker": "SyncWorker"},
    together={"workers": "2"},
)
THREADS = Server(
    "gunicorn (gthread)",
    "gunicorn_server",
    "gunicorn",
    sendfile=True,
    options={"worker": "ThreadWorker"},
)
test_what_it_shows, test_what_it_endures = trials(SYNC, THREADS)


def test_stalled_handshakes_end(tmp_path: Path, authority: trustme.CA) -> None:
    """A worker that serves one at a time serves again before it is killed for waiting."""
    task = arrange(tmp_path, authority, "off", worker="SyncWorker", timeout="2")
    with Served("gunicorn_server", task, authority) as served, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", task.port)))
        assert served.ask_anew(served.context(), "/scheme") == b"https"
        until(lambda: "did not finish within 1 seconds" in served.program.errors())
        assert "Traceback" not in served.program.errors()


def test_silent_clients_take_no_thread(tmp_path: Path, authority: trustme.CA) -> None:
    """Before their handshakes, within them and afterwards, more of them than there are threads."""
    task = arrange(tmp_path, authority, "off", worker="ThreadWorker", threads="1")
    with Served("gunicorn_server", task, authority) as served, ExitStack() as stack:
        for greeting in (b"", b"\x16"):
            for _ in range(2):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", task.port)))
                sock.sendall(greeting)
        silent = [stack.enter_context(served.connect(served.context())) for _ in range(2)]
        assert served.ask_anew(served.context(), "/scheme") == b"https"
        assert served.ask(silent[0], "/scheme") == b"https"


def test_unusable_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    """It is told before anybody connects."""
    task = arrange(tmp_path, authority, "off", worker="ThreadWorker")
    Path(task.cert).write_text("garbage")
    served = Served("gunicorn_server", task, authority)
    with served.program as program:
        program.wait_for_error("holds no usable PEM certificate")
