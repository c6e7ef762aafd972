"""Tests of cheroot: with cheroot and CherryPy, unmodified."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.integrations.harness import Served, arrange
from tests.integrations.trials import PATHS, Server, trials, update_key
from tests.interop.programs import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

    from tests.doubles import Lab

CHEROOT = Server("cheroot", "cheroot_wsgi", "cheroot", interruptible=False)
test_what_it_shows, test_what_it_endures = trials(
    CHEROOT,
    Server("CherryPy", "cherrypy_app", "CherryPy", started="Bus STARTED"),
)


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("ktls", PATHS)
def test_silent_clients_take_no_thread(tmp_path: Path, authority: trustme.CA, ktls: str) -> None:
    """Before their handshakes and within them, more of them than there are threads."""
    task = arrange(tmp_path, authority, ktls, threads="1")
    with Served("cherrypy_app", task, authority) as served, ExitStack() as stack:
        for greeting in (b"", b"\x16") * 3:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", task.port)))
            sock.sendall(greeting)
        assert served.ask_anew(served.context(), "/scheme") == b"https"
        assert "Traceback" not in served.program.errors()
        served.program.wait_for_error("Bus STARTED")
        served.interrupt()


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("ktls", PATHS)
def test_key_update_behind_a_request(
    tmp_path: Path, authority: trustme.CA, lab: Lab, ktls: str
) -> None:
    """The selector, by which cheroot then waits for the next request, would not be told of it."""
    update_key(CHEROOT, tmp_path, authority, ktls, lab.configs()[0])
