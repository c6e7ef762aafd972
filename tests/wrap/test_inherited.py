"""Tests of inherited: sockets that another user has made are refused before a program begins."""

from __future__ import annotations

import os
import socket

import pytest

from tlsify.errors import ConfigError
from tlsify.wrap import inherited


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_sockets_of_another_user() -> None:
    """A listener that is to get TLS has to be of a user that tlsify may be."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as other:
        port = listener.getsockname()[1]
        for sock in (listener, other):
            sock.set_inheritable(True)
        inherited.check(lambda _: True)
        child = os.fork()
        if not child:
            status = 1
            try:
                os.setuid(65534)
                inherited.check(lambda number: number != port)
                try:
                    inherited.check(lambda _: True)
                except ConfigError as exc:
                    status = f"127.0.0.1:{port}, which the program inherits" not in str(exc)
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
