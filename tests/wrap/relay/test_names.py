"""Tests of names: a program is told its client's address, by whatever number it asks."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.doubles import reset
from tests.wrap.wrapped import RELAY, Wrapped, needs_seccomp, read_all
from tlsify.wrap.relay import passage
from tlsify.wrap.relay.names import Names
from tlsify.wrap.threads import Seen, Threads

if TYPE_CHECKING:
    from tests.cli.conftest import Pki

pytestmark = needs_seccomp


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_names(pki: Pki, host: str) -> None:
    """They are those of the connection itself; other sockets keep theirs."""
    source = f"""
import ctypes
listener = listen({host!r})
sock, name = listener.accept()
assert sock.getpeername() == name, (sock.getpeername(), name)
assert listener.getsockname()[1] == sock.getsockname()[1]
os.dup2(sock.fileno(), 0)
moved = socket.socket(fileno=0)
assert (moved.getpeername(), moved.getsockname()) == (name, sock.getsockname())
assert ctypes.CDLL(None, use_errno=True).getpeername(0, None, None) == -1
assert ctypes.get_errno() == 14
with socket.socket() as other:
    assert other.getsockname() == ("0.0.0.0", 0)
sock.sendall(f"{{name[:2]}} {{sock.getsockname()[:2]}}".encode())
"""
    with Wrapped(pki, RELAY, source) as program:
        target = "127.0.0.1" if host == "::" else host
        with program.connect(target) as client:
            found = read_all(client).decode().replace("::ffff:", "")
            assert found == f"{client.getsockname()[:2]} {client.getpeername()[:2]}"
        assert program.end() == 0


def test_name_of_a_connection_that_was_reset(pki: Pki) -> None:
    """There is none any more, as without TLS."""
    source = """
sock, _ = listen().accept()
sock.sendall(b"x")
try:
    sock.recv(1)
except ConnectionResetError:
    pass
try:
    sock.getpeername()
except OSError as exc:
    print(exc.errno, flush=True)
"""
    with Wrapped(pki, RELAY, source) as program:
        client = program.connect()
        assert client.recv(1) == b"x"
        reset(client)
        assert program.line() == f"{errno.ENOTCONN}\n"
        assert program.end() == 0


def test_want_of_descriptors(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that cannot be found out is an error, never that of the pair."""

    def want(*_: object) -> Seen:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    wanting = Threads()
    monkeypatch.setattr(wanting, "look", want)
    monkeypatch.setattr(passage, "Names", lambda asked, _: Names(asked, wanting))
    source = """
sock, name = listen().accept()
try:
    sock.getpeername()
except OSError as exc:
    print(exc.errno, flush=True)
sock.close()
"""
    with Wrapped(pki, RELAY, source) as program:
        with program.connect() as client:
            assert program.line() == f"{errno.EMFILE}\n"
            assert client.recv(1) == b""
        assert program.end() == 0
