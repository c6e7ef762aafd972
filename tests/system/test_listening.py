"""Tests of listening."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tlsify.errors import NetworkError
from tlsify.system import listening

if TYPE_CHECKING:
    from pathlib import Path

_INHERIT = """
import os, sys
from tlsify.errors import ConfigError
from tlsify.system.listening import inherited, spell
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
try:
    found = inherited()
except ConfigError as exc:
    sys.exit(str(exc))
print([spell(sock) for sock in found], sorted(n for n in os.environ if "LISTEN" in n))
print([os.get_inheritable(sock.fileno()) for sock in found])
for sock in found:
    sock.close()
"""


def _inherit(sock: socket.socket, *, stranger: bool = False) -> subprocess.CompletedProcess[str]:
    def place() -> None:
        os.dup2(sock.fileno(), 3)

    return subprocess.run(
        [sys.executable, "-c", _INHERIT, str(int(stranger))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "https"},
        preexec_fn=place,
        close_fds=False,
    )


def test_listening_on_a_free_port() -> None:
    """Port 0 finds one, and the spelling says which."""
    with listening.listen("127.0.0.1", 0) as sock:
        assert listening.spell(sock) == f"127.0.0.1:{sock.getsockname()[1]}"
        with socket.create_connection(sock.getsockname()):
            pass


def test_silent_client() -> None:
    """If it is wanted the kernel keeps it, and others are accepted before it."""
    with ExitStack() as stack:
        sock = stack.enter_context(listening.listen("127.0.0.1", 0, deferred=True))
        sock.settimeout(60)
        for word in (b"", b"hello"):
            client = stack.enter_context(socket.create_connection(sock.getsockname()))
            client.sendall(word)
        accepted, address = sock.accept()
        stack.enter_context(accepted)
        assert address == client.getsockname()
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_address_of_version_6() -> None:
    """It is spelled in brackets."""
    with listening.listen("::1", 0) as sock:
        assert listening.spell(sock).startswith("[::1]:")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 70])
def test_address_that_cannot_be_had(host: str) -> None:
    """One line says so, whatever the reason."""
    with pytest.raises(NetworkError, match="cannot listen on"):
        listening.listen(host, 0)


def test_port_in_use() -> None:
    """Somebody else's is not shared."""
    with (
        listening.listen("127.0.0.1", 0) as sock,
        pytest.raises(NetworkError, match="in use"),
    ):
        listening.listen("127.0.0.1", sock.getsockname()[1])


def test_sockets_of_systemd() -> None:
    """They are taken over, and neither they nor the variables are passed on."""
    with listening.listen("127.0.0.1", 0) as sock:
        outcome = _inherit(sock)
        assert outcome.stdout == f"{[listening.spell(sock)]} []\n[False]\n", outcome.stderr


def test_sockets_of_somebody_else() -> None:
    """Variables that were meant for another process say nothing."""
    with listening.listen("127.0.0.1", 0) as sock:
        assert _inherit(sock, stranger=True).stdout == "[] []\n[]\n"


def test_socket_that_does_not_listen() -> None:
    """It is refused with the unit's remedy."""
    with socket.socket() as sock:
        assert "no listening stream socket" in _inherit(sock).stderr


def test_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables there are none."""
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert listening.inherited() == []


def test_listening_at_a_path(tmp_path: Path) -> None:
    """One who is gone is taken the place of; one who is there is not, nor is another file."""
    path = tmp_path / "socket"
    with listening.listen_at(path) as first:
        assert listening.spell(first) == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        with pytest.raises(NetworkError, match="cannot listen at"):
            listening.listen_at(path)
    with listening.listen_at(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    path.unlink()
    path.write_text("mine")
    with pytest.raises(NetworkError, match="in use"):
        listening.listen_at(path)
    assert path.read_text() == "mine"
    with pytest.raises(NetworkError, match="cannot listen at"):
        listening.listen_at(tmp_path / "no" / "socket")
    with pytest.raises(NetworkError, match="too long"):
        listening.listen_at(tmp_path / ("x" * 200))


def test_forgetting(tmp_path: Path) -> None:
    """A path goes along with its socket; other sockets are just closed, once or twice."""
    path = tmp_path / "socket"
    at_path, on_port = listening.listen_at(path), listening.listen("127.0.0.1", 0)
    for sock in (at_path, on_port, on_port):
        listening.forget(sock)
        assert sock.fileno() == -1
    assert not path.exists()


def test_forgetting_disturbs_nobody(tmp_path: Path) -> None:
    """Workers may still have the socket: nothing connects to it."""
    path = tmp_path / "socket"
    sock = listening.listen_at(path)
    with sock.dup() as other:
        listening.forget(sock)
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert not path.exists()


def test_forgetting_what_another_has(tmp_path: Path) -> None:
    """Where another socket listens at the path by now, it stays."""
    path = tmp_path / "socket"
    former = listening.listen_at(path)
    path.unlink()
    with listening.listen_at(path), socket.socket(socket.AF_UNIX) as client:
        listening.forget(former)
        client.connect(str(path))


def test_several_sockets_of_one_address() -> None:
    """They share it if each says so."""
    with listening.listen("127.0.0.1", 0, reuse_port=True) as first:
        port = first.getsockname()[1]
        with listening.listen("127.0.0.1", port, reuse_port=True) as second:
            assert second.getsockname() == first.getsockname()
        with pytest.raises(NetworkError, match="in use"):
            listening.listen("127.0.0.1", port)


def test_adopting() -> None:
    """A listening socket is taken over; anything else is refused, and left as it was."""
    with listening.listen("127.0.0.1", 0) as sock:
        number = os.dup(sock.fileno())
        os.set_inheritable(number, True)
        with listening.adopt(number) as taken:
            assert taken.getsockname() == sock.getsockname()
            assert not os.get_inheritable(number)
    with socket.socket() as other:
        with pytest.raises(OSError, match="Invalid"):
            listening.adopt(other.fileno())
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
