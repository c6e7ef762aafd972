"""Tests of supervisor: signals, exit statuses, daemons, certificates that change."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.doubles import until
from tests.wrap.wrapped import ECHO_TWICE, RELAY, SERVE, Wrapped, needs_seccomp, read_all
from tlsify.wrap import supervisor

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Pki

pytestmark = needs_seccomp


@pytest.mark.parametrize(
    ("ending", "status"),
    [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("os.abort()", 134)],
)
def test_exit_status(pki: Pki, ending: str, status: int) -> None:
    """The program's is the command's, spelt as shells do."""
    with Wrapped(pki, RELAY, f"listen()\n{ending}") as program:
        assert program.end() == status


def test_signals(pki: Pki) -> None:
    """The program gets them, and decides."""
    source = """
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGQUIT):
    signal.signal(number, lambda number, _: os.write(1, b"%d\\n" % number))
listener = listen()
while True: signal.pause()
"""
    with Wrapped(pki, RELAY, source) as program:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
            program.signal(number)
            assert program.line() == f"{number:d}\n"
        program.signal(signal.SIGTERM)
        assert program.end() == 128 + signal.SIGTERM


def test_daemon(pki: Pki) -> None:
    """Where the first process has left another one, that is served, and gets the signals."""
    source = (
        SERVE
        + """
listener = listen()
if os.fork():
    os._exit(3)
os.setsid()
print("daemon", flush=True)
while True:
    serve(*listener.accept())
"""
    )
    with Wrapped(pki, RELAY, source) as program:
        assert program.line() == "daemon\n"
        for _ in range(2):
            program.ask()
        until(lambda: "first process has ended, with status 3; others" in program.said())
        program.signal(signal.SIGTERM)
        assert program.end() == 3


def test_new_certificate(pki: Pki, tmp_path: Path) -> None:
    """Files that change are read again, and if they are no use the previous ones stay."""
    chain, key = tmp_path / "chain", tmp_path / "key"
    shutil.copy(pki.bad["wrong-name"].certificate, chain)
    shutil.copy(pki.bad["wrong-name"].key, key)
    source = ECHO_TWICE.replace("range(2)", "range(9999)")
    with Wrapped(pki, RELAY, source, credentials=("--cert", chain, "--key", key)) as program:

        def name() -> object:
            with socket.create_connection(program.server) as sock:
                context = pki.client_context()
                context.check_hostname = False
                with context.wrap_socket(sock) as client:
                    client.sendall(b"x")
                    read_all(client)
                    return (client.getpeercert() or {}).get("subjectAltName")

        first = name()
        shutil.copy(pki.good.key, key)
        shutil.copy(pki.good.certificate, chain)
        until(lambda: name() != first)
        second = name()
        chain.write_bytes(b"")
        until(lambda: "reload failed" in program.said())
        assert name() == second


def handshakes(place: Path) -> int:
    """Ask for the metrics; return how many handshakes they have counted."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: client.recv(2**16), b"")).decode()
    (number,) = re.findall(r'^tlsify_handshakes_total{outcome="ok"} (\d+)$', text, re.MULTILINE)
    return int(number)


def test_metrics(pki: Pki, tmp_path: Path) -> None:
    """They count the program's connections."""
    place = tmp_path / "metrics"
    with Wrapped(pki, RELAY, ECHO_TWICE, "--metrics", f"unix:{place}") as program:
        program.ask()
        until(lambda: handshakes(place) == 1)
        program.ask()
        assert program.end() == 0
    assert not place.exists()


def test_access_log(pki: Pki, tmp_path: Path) -> None:
    """It has a line for each connection, with its end."""
    log = tmp_path / "log"
    source = """
listener = listen()
listener.accept()[0].close()
second = listener.accept()
os.kill(os.getpid(), 9)
"""
    with Wrapped(pki, RELAY, source, f"--access-log={log}") as program:
        with program.connect() as client:
            assert read_all(client) == b""
        with pytest.raises((ssl.SSLEOFError, ConnectionError)), program.connect() as client:
            client.recv(1)
        assert program.end() == 137
    ends = [line.rsplit("end=")[1].split()[0] for line in log.read_text().splitlines()]
    assert ends == ["clean", "ECONNABORTED"]


def test_key_isolation(pki: Pki) -> None:
    """Handshakes may be done by processes that alone have the key; all end with the program.

    The supervisor, which relays, can still read the file: a warning says so.
    """
    with Wrapped(pki, RELAY, ECHO_TWICE, "--isolate-key") as program:
        for _ in range(2):
            program.ask()
        assert program.end() == 0
        assert f"--isolate-key keeps {pki.good.key} out of memory only" in program.said()
        assert "; use --key-fd\n" in program.said()


def test_key_from_a_descriptor(pki: Pki) -> None:
    """The program has not got it."""
    key = os.open(pki.good.key, os.O_RDONLY)
    os.set_inheritable(key, True)
    source = """
listener = listen()
print([os.readlink(entry.path) for entry in os.scandir("/proc/self/fd")], flush=True)
"""
    credentials = ("--cert", pki.good.certificate, "--key-fd", key)
    with Wrapped(pki, RELAY, source, credentials=credentials) as program:
        os.close(key)
        assert str(pki.good.key) not in program.line()
        assert program.end() == 0


def test_regular_work_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is done again, and complained of once."""
    done: list[int] = []

    async def run() -> None:
        enough = asyncio.Event()

        def work() -> None:
            done.append(1)
            if len(done) > 2:
                enough.set()
            raise OSError(errno.EMFILE, "none left")

        task = asyncio.create_task(supervisor._regularly(0, work))
        waiting = asyncio.create_task(enough.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert enough.is_set()
        task.cancel()

    asyncio.run(run())
    assert len(caplog.records) == 1
