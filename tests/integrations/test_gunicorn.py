"""Tests of gunicorn: its workers, unmodified."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doubles import until
from tests.integrations.harness import Served, arrange
from tests.integrations.trials import PATHS, Server, break_off, trials, update_key
from tests.interop.programs import TIMEOUT

if TYPE_CHECKING:
    import trustme

    from tests.doubles import Lab

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


@pytest.mark.parametrize("ktls", PATHS)
@pytest.mark.parametrize("server", [SYNC, THREADS], ids=["sync", "gthread"])
def test_answer_that_breaks_off(
    tmp_path: Path, authority: trustme.CA, server: Server, ktls: str
) -> None:
    """The worker would half-close in good order; the client sees no clean end."""
    break_off(server, tmp_path, authority, ktls)


@pytest.mark.parametrize("ktls", PATHS)
def test_key_update_behind_a_request(
    tmp_path: Path, authority: trustme.CA, lab: Lab, ktls: str
) -> None:
    """The poller, which then waits for the next request, would not be told of it."""
    update_key(THREADS, tmp_path, authority, ktls, lab.configs()[0])


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
    """Before and within their handshakes they keep no place either; each refusal is logged."""
    task = arrange(
        tmp_path, authority, "off", worker="ThreadWorker", threads="1", worker_connections="4"
    )
    with Served("gunicorn_server", task, authority) as served, ExitStack() as stack:
        for greeting in (b"", b"\x16") * 3:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", task.port)))
            sock.sendall(greeting)
        silent = [stack.enter_context(served.connect(served.context())) for _ in range(2)]
        assert served.ask_anew(served.context(), "/scheme") == b"https"
        assert served.ask(silent[0], "/scheme") == b"https"
        served.program.wait_for_error("connection refused: ip=127.0.0.1: its handshake has stalled")
        with socket.create_connection(("127.0.0.1", task.port)) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
            served.program.wait_for_error("connection refused: ip=127.0.0.1: peer sent plain text")


def test_end_of_worker(tmp_path: Path, authority: trustme.CA) -> None:
    """Whom it has accepted it answers, although the handshake is to come; the silent go first."""
    task = arrange(tmp_path, authority, "off", worker="ThreadWorker", max_requests="1")
    with Served("gunicorn_server", task, authority) as served, ExitStack() as stack:
        context, address = served.context(), ("127.0.0.1", task.port)
        early = [stack.enter_context(socket.create_connection(address, 60)) for _ in range(3)]
        assert served.ask_anew(context, "/scheme") == b"https"
        served.program.wait_for_error("Autorestarting worker")
        for each in early[1:]:
            with context.wrap_socket(each, server_hostname="example.org") as sock:
                assert served.ask(sock, "/scheme") == b"https"
        served.program.wait_for_error("connection refused: ip=127.0.0.1: its handshake has stalled")


def test_want(tmp_path: Path, authority: trustme.CA) -> None:
    """It costs connections, each with its line in the log, and no worker."""
    task = arrange(tmp_path, authority, "off", worker="ThreadWorker", short="yes")
    with Served("gunicorn_server", task, authority) as served:
        context = served.context()
        with closing(served.connect(context)) as sock:
            assert sock.recv(9) == b""
        served.program.wait_for_error("connection refused: ip=127.0.0.1: ENOSPC")
        with ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", task.port)))
            served.program.wait_for_error("accept() failed, retrying in 0.1 s: EMFILE")
        assert served.ask_anew(context, "/scheme") == b"https"
        errors = served.program.errors()
        assert errors.count("Booting worker") == 1, errors
        assert "Traceback" not in errors


def test_unusable_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    """It is told before anybody connects."""
    task = arrange(tmp_path, authority, "off", worker="ThreadWorker")
    Path(task.cert).write_text("garbage")
    served = Served("gunicorn_server", task, authority)
    with served.program as program:
        program.wait_for_error("holds no usable PEM certificate")
