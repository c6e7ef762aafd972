"""Tests of the verbs as services: what they tell their manager, and do not tell PROG."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

import pytest

from tests.cli.harness import ENVIRONMENT, LOOPBACK, PATIENCE, Server, finish, over_tls, start
from tests.cli.test_listen import Listening
from tlsify.ktls.probe import loopback_pair
from tlsify.system.service_manager import VARIABLES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Pki

    Words = tuple[str | int | Path, ...]

_PERIOD = 0.2  # of the watchdog, in seconds


def _shown(pki: Pki) -> Words:
    return ("--cert", pki.good.certificate, "--key", pki.good.key)


# Each verb that serves, on files in a folder of its own.
_VERBS: dict[str, Callable[[Pki, Path], Words]] = {
    "serve": lambda pki, folder: (*_shown(pki), "--listen", f"{LOOPBACK}:0", folder),
    "forward": lambda pki, _: (*_shown(pki), f"{LOOPBACK}:0", f"{LOOPBACK}:1"),
    "listen": lambda pki, _: (*_shown(pki), LOOPBACK, 0, "--", "cat"),
    "agent": lambda pki, folder: (*_shown(pki), "--workers", 2, folder / "place/agent"),
    "agent of one worker": lambda pki, folder: (
        *(*_shown(pki), "--workers", 1, folder / "place/agent"),
    ),
}


class Manager:
    """A service manager's socket, which sees who speaks."""

    def __init__(self, place: Path) -> None:
        """Listen."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(PATIENCE)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind(str(place))
        self.environment = ENVIRONMENT | {
            "NOTIFY_SOCKET": str(place),
            "WATCHDOG_USEC": str(int(_PERIOD * 1_000_000)),
        }

    def __enter__(self) -> Self:
        """Listen."""
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        self._sock.close()

    def read(self) -> tuple[int, str]:
        """Return the next message, and its sender's pid."""
        size = socket.CMSG_SPACE(struct.calcsize("3i"))
        message, ancillary, _, _ = self._sock.recvmsg(2**12, size)
        ((_, _, credentials),) = ancillary
        return struct.unpack("3i", credentials)[0], message.decode()

    def read_until(self, start: str) -> str:
        """Return the next message that is none of the watchdog's; it has to begin so."""
        while (found := self.read()[1]) == "WATCHDOG=1":
            pass
        assert found.startswith(start), found
        return found


@pytest.mark.parametrize("verb", _VERBS)
def test_what_a_service_tells(pki: Pki, tmp_path: Path, verb: str) -> None:
    """READY, WATCHDOG in time, RELOADING and READY again, STOPPING: all by the main process."""
    words = _VERBS[verb](pki, tmp_path)
    with Manager(tmp_path / "notify") as manager:
        process = start(verb.partition(" ")[0], *words, env=manager.environment)
        try:
            manager.read_until("READY=1")
            assert [manager.read() for _ in range(3)] == [(process.pid, "WATCHDOG=1")] * 3
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            process.send_signal(signal.SIGHUP)
            moment = manager.read_until("RELOADING=1\nMONOTONIC_USEC=").rpartition("=")[2]
            assert int(moment) >= before
            manager.read_until("READY=1")
            # Once more for each process of before that has ended meanwhile, with another STATUS.
            while (found := manager.read()[1]) != "WATCHDOG=1":
                assert found.startswith("READY=1")
            process.send_signal(signal.SIGTERM)
            while not (found := manager.read()[1]).startswith("STOPPING=1"):
                assert found.startswith(("READY=1", "WATCHDOG=1"))
            outcome = finish(process)
            assert outcome.status == 0, outcome
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("verb", _VERBS)
def test_reload_that_is_refused(pki: Pki, tmp_path: Path, verb: str) -> None:
    """It ends with READY=1 as well, or the service manager would wait for it."""
    shown = type(pki.good)(tmp_path / "cert.pem", tmp_path / "key.pem")
    shown.certificate.write_bytes(pki.good.certificate.read_bytes())
    shown.key.write_bytes(pki.good.key.read_bytes())
    words = _VERBS[verb](pki._replace(good=shown), tmp_path)
    with Manager(tmp_path / "notify") as manager:
        process = start(verb.partition(" ")[0], *words, env=manager.environment)
        try:
            manager.read_until("READY=1")
            shown.key.write_bytes(b"nonsense")
            process.send_signal(signal.SIGHUP)
            manager.read_until("RELOADING=1")
            assert "not reloaded" in manager.read_until("READY=1\nSTATUS=")
        finally:
            process.terminate()
            assert finish(process).status == 0


# -- what PROG finds

_TOLD = dict.fromkeys(VARIABLES, "1") | {"LISTEN_FDNAMES": "https", "NOTIFY_SOCKET": "@nobody"}
_ENV = ("sh", "-c", "env; echo .")


@contextmanager
def _told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set what a service manager tells each process that it starts."""
    with monkeypatch.context() as patch:
        for name, value in _TOLD.items():
            patch.setitem(ENVIRONMENT, name, value)
        yield


def _of_connect(pki: Pki, stack: ExitStack) -> str:
    def read(stream: ssl.SSLSocket) -> str:
        found = b""
        while not found.endswith(b"\n.\n"):
            found += stream.recv(2**16)
        return found.decode()

    server = Server(over_tls(pki.good.server_context(), read))
    words = ("connect", "--ca", pki.authority, LOOPBACK, server.port, "--")
    process = start(*words, "sh", "-c", "{ env; echo .; } >&7")
    stack.callback(finish, process)
    return str(server.result())


def _of_accept(pki: Pki, stack: ExitStack) -> str:
    ours, theirs = stack.enter_context(loopback_pair())
    ours.settimeout(PATIENCE)
    streams = {"stdin": theirs.fileno(), "stdout": theirs.fileno()}
    process = start("accept", *_shown(pki), "--", *_ENV, stderr=subprocess.PIPE, **streams)
    stack.callback(finish, process)
    theirs.close()
    stream = pki.client_context().wrap_socket(ours, server_hostname="localhost")
    return _read_all(stack.enter_context(stream))


def _of_listen(pki: Pki, stack: ExitStack) -> str:
    server = stack.enter_context(Listening(pki.good, program=_ENV))
    return _read_all(stack.enter_context(server.connect(pki)))


def _of_ucspi_tls(pki: Pki, stack: ExitStack) -> str:
    server = stack.enter_context(Listening(pki.good, "--ucspi-tls", program=_ENV))
    return _read_all(stack.enter_context(server.dial()))


def _read_all(stream: socket.socket) -> str:
    return b"".join(iter(lambda: stream.recv(2**16), b"")).decode()


_PROGRAMS = {
    "connect": _of_connect,
    "accept": _of_accept,
    "listen": _of_listen,
    "listen --ucspi-tls": _of_ucspi_tls,
}


@pytest.mark.parametrize("verb", _PROGRAMS)
def test_what_a_program_does_not_find(pki: Pki, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the service manager tells is for the service alone."""
    with _told(monkeypatch), ExitStack() as stack:
        found = _PROGRAMS[verb](pki, stack)
    names = {line.partition("=")[0] for line in found.splitlines()}
    assert "PATH" in names, found
    assert "PROTO" in names, found
    assert not names & set(VARIABLES)
