"""Tests of ucspi_tls."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.cli.harness import (
    CARRIERS,
    ENVIRONMENT,
    PATIENCE,
    finish,
    read_all,
    read_message,
    start,
)
from tests.cli.test_listen import Listening
from tests.provision import find

if TYPE_CHECKING:
    import socket
    import ssl
    from pathlib import Path

    from tests.cli.conftest import Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)
# Greets in plain text, is asked for TLS, asks for it, and goes on there.
_UPGRADE = """
printf 'plain\\r\\n'
IFS= read -r line
printf 'go\\r\\n'
printf %s ORDER >&$SSLCTLFD
TELL
exec <&$SSLREADFD >&$SSLWRITEFD
printf 'sealed '
exec cat
"""
_TELL = """
while IFS= read -r -u $SSLCTLFD -d '' variable && [ -n "$variable" ]; do
    case $variable in SSL_PROTOCOL=*) told=$variable;; esac
done
echo "$told" >&2
"""


def _program(order: str, tell: str = "") -> tuple[str, ...]:
    return (find("bash"), "-c", _UPGRADE.replace("ORDER", order).replace("TELL", tell))


def _upgrade(server: Listening, pki: Pki) -> ssl.SSLSocket:
    sock = server.dial()
    assert sock.recv(100) == b"plain\r\n"
    sock.sendall(b"STARTTLS\n")
    assert sock.recv(100) == b"go\r\n"
    return pki.client_context().wrap_socket(sock, server_hostname="localhost")


@each_carrier
def test_upgrade(pki: Pki, carrier: str) -> None:
    """Plain text before, TLS afterwards, and the client's end is the program's."""
    with Listening(pki.good, carrier, "--ucspi-tls", program=_program("y")) as server:
        with _upgrade(server, pki) as stream:
            stream.sendall(b"question")
            received = b""
            while received != b"sealed question":
                received += stream.recv(100)
            plain = stream.unwrap()
            plain.close()
        assert server.stop().status == 0


def test_upgrade_with_variables(pki: Pki) -> None:
    """Y instead of y: the program is told of the connection on the descriptor that it asked on."""
    with Listening(pki.good, "--ucspi-tls", program=_program("Y", _TELL)) as server:
        with _upgrade(server, pki) as stream:
            stream.sendall(b"x")
            received = b""
            while received != b"sealed x":
                received += stream.recv(100)
            assert read_message(server.process.stderr) == "SSL_PROTOCOL=TLSv1.3\n"
            stream.unwrap().close()
        server.stop()


_ASKING = (
    "import socket; s = socket.socket(fileno=0);"
    "print(s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), flush=True)"
)


def test_client_that_vanishes_in_plain_text(pki: Pki) -> None:
    """TCP looks for it from the beginning."""
    program = (sys.executable, "-c", _ASKING)
    with Listening(pki.good, "--ucspi-tls", program=program) as server:
        with server.dial() as sock:
            assert sock.recv(100) == b"1\n"
        server.stop()


def test_program_that_does_without(pki: Pki) -> None:
    """It never asks, and everything stays plain."""
    with Listening(pki.good, "--ucspi-tls", program=("sh", "-c", "read x; echo plain")) as server:
        with server.dial() as sock:
            sock.sendall(b"\n")
            assert sock.recv(100) == b"plain\n"
            assert sock.recv(100) == b""
        outcome = server.stop()
        assert (outcome.status, outcome.err) == (0, "")


def test_environment_before_tls(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there is known already; where keys are is none of the program's business."""
    monkeypatch.setitem(ENVIRONMENT, "KEYFILE", "/secret")
    monkeypatch.setitem(ENVIRONMENT, "SSL_CIPHER", "somebody else's")
    script = 'read x; echo "$PROTO $TCPREMOTEIP $TCPLOCALPORT <$KEYFILE$SSL_CIPHER>"'
    with Listening(pki.good, "--ucspi-tls", program=("sh", "-c", script)) as server:
        with server.dial() as sock:
            sock.sendall(b"\n")
            assert sock.recv(100) == f"TCP 127.0.0.1 {server.port} <>\n".encode()
        assert server.stop().status == 0


def test_client_that_goes_on_in_plain_text(pki: Pki) -> None:
    """The handshake fails, which the program learns by the end of what it reads."""
    script = "printf y >&$SSLCTLFD; exec <&$SSLREADFD; cat; echo over >&2"
    with Listening(pki.good, "--ucspi-tls", program=("sh", "-c", script)) as server:
        with server.dial() as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(b"MAIL FROM:<x@example.org>\r\n")
            assert sock.recv(100)[:1] == b"\x15"
            while sock.recv(100):
                pass
        assert "over" in server.stop().err


def test_places_that_are_short(pki: Pki) -> None:
    """A client that has sent nothing makes room; one that has sent something keeps its place."""
    program = ("sh", "-c", "echo hello; while read x; do echo got $x; done")
    words = (pki.good, "--limit", "2", "--ucspi-tls")
    with Listening(*words, program=program) as server, ExitStack() as stack:
        spoken, silent = (stack.enter_context(server.dial()) for _ in range(2))
        spoken.sendall(b"one\n")
        assert b"got one" in _until(spoken, b"one\n")
        assert _until(silent, b"\n") == b"hello\n"
        third = stack.enter_context(server.dial())
        assert _until(third, b"\n") == b"hello\n"
        assert silent.recv(1) == b""
        spoken.sendall(b"two\n")
        assert b"got two" in _until(spoken, b"two\n")


def _until(sock: socket.socket, end: bytes) -> bytes:
    sock.settimeout(PATIENCE)
    received = b""
    while not received.endswith(end):
        more = sock.recv(100)
        assert more, received
        received += more
    return received


def test_program_that_cannot_be_run(pki: Pki) -> None:
    """As with connect: 127."""
    words = ("--cert", pki.good.certificate, "--key", pki.good.key)
    process = start("listen", *words, "--ucspi-tls", "127.0.0.1", 0, "--", "no-such-program")
    finish(process).failed(127)


_FAREWELL = """
printf %s y >&$SSLCTLFD
trap 'echo bye >&$SSLWRITEFD; exit 0' TERM
echo hello >&$SSLWRITEFD
while :; do sleep 0.05; done
"""


@each_carrier
def test_signal_to_program_and_keeper(pki: Pki, carrier: str) -> None:
    """A service's end is sent so: the farewell arrives, and close_notify behind it."""
    words = (pki.good, carrier, "--ucspi-tls")
    with Listening(*words, program=(find("bash"), "-c", _FAREWELL)) as server:
        with server.connect(pki) as stream:
            assert stream.recv(100) == b"hello\n"
            for process in psutil.Process(server.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # the program's own come and go
                    process.terminate()
            assert read_all(stream) == b"bye\n"
        assert server.stop().status == 0


_DEAF = """
eval "exec $SSLREADFD<&-"
echo ok >&$SSLWRITEFD
while [ ! -e FILE ]; do sleep 0.05; done
echo last >&$SSLWRITEFD
"""


@each_carrier
def test_program_that_stops_reading(pki: Pki, carrier: str, tmp_path: Path) -> None:
    """What it writes goes out all the same, to its end."""
    script = "printf %s y >&$SSLCTLFD" + _DEAF.replace("FILE", str(tmp_path / "go"))
    words = (pki.good, carrier, "--ucspi-tls")
    with Listening(*words, program=(find("bash"), "-c", script)) as server:
        with server.connect(pki) as stream:
            assert stream.recv(100) == b"ok\n"
            stream.sendall(b"for nobody")
            (tmp_path / "go").touch()
            assert read_all(stream) == b"last\n"
        server.stop().succeeded()
