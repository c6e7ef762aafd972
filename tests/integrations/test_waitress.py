"""Tests of waitress: as it is, and its own limit of connections."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import waitress

from tests.doubles import Endpoint, backlog, check_descriptors, descriptors, until
from tests.integrations.applications import wsgi
from tests.integrations.harness import arrange
from tests.integrations.programs.blocking import context
from tests.integrations.trials import Server, trials
from tests.want import Want
from tlsify.aio import pending
from tlsify.integrations.waitress import secure

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    import trustme

test_what_it_shows, test_what_it_endures = trials(Server("waitress", "waitress_wsgi", "waitress"))


def test_limit_of_connections(
    tmp_path: Path,
    authority: trustme.CA,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Handshakes count, too: one that stalls makes room, and newcomers wait in the kernel.

    Without a thread for handshakes it accepts later.
    """
    before = descriptors()
    server: Any = waitress.create_server(
        wsgi(__file__, lambda _: {}),
        listen="127.0.0.1:0",
        url_scheme="https",
        threads=1,
        connection_limit=4,  # the listening socket and its trigger count
    )
    secure(server, context(arrange(tmp_path, authority, "off")))
    with Want("thread", 1) as want:
        assert not server.readable()
        assert want.has_failed
    assert "cannot accept, retrying: can't start new thread" in caplog.text
    serving = Endpoint(server.run)
    port = int(server.effective_port)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trusting)
    with ExitStack() as stack:

        def dial() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))

        def ask(sock: socket.socket) -> ssl.SSLSocket:
            stream = trusting.wrap_socket(sock, server_hostname="example.org")
            stack.enter_context(stream).sendall(b"GET /scheme HTTP/1.1\r\nHost: x\r\n\r\n")
            assert stream.recv(100).startswith(b"HTTP/1.1 200 OK")
            return stream

        silent = [dial() for _ in range(3)]
        assert silent[0].recv(1) == b""
        for each in silent:
            each.close()
        monkeypatch.setattr(pending, "_LEAST", 60.0)  # honest ones may be slow
        kept = [ask(dial()) for _ in range(2)]
        later = Endpoint(lambda: ask(dial()))
        dial()  # one of them waits for a place, and the other in the kernel
        until(lambda: backlog(port) == 1)
        for each in kept:
            each.close()
        later.result()
        server.trigger.pull_trigger(server.close)
    serving.result()
    server.task_dispatcher.shutdown()
    check_descriptors(before)
