"""docs/examples/succession.py: the next version of a server goes on with its connections."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import PROJECT, RELAY, Place
from tests.interop.programs import PATIENCE, TIMEOUT, Program
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]


class _Client:
    """A client that speaks in lines."""

    def __init__(self, server: Program, port: int, authority: Path) -> None:
        context = ssl.create_default_context(cafile=authority)
        self.stream = context.wrap_socket(server.dial(port), server_hostname="localhost")
        self.stream.settimeout(PATIENCE)
        self._lines = self.stream.makefile("rb")

    def ask(self, text: bytes) -> tuple[int, bytes]:
        """Return the number of the process that answers, and its answer."""
        self.stream.sendall(text)
        process, _, answer = self._lines.readline().partition(b": ")
        return int(process), answer

    def close(self) -> None:
        """End in order."""
        self.stream.unwrap()
        self._lines.close()
        self.stream.close()


@contextmanager
def _version(place: Place, port: int) -> Iterator[Program]:
    """Run the example, which is ready; if the server before it ends, that is its own affair."""
    program = f"{sys.executable} {PROJECT}/docs/examples/succession.py"
    carrier = "TLSIFY_KTLS=off " if place.carrier == RELAY else ""
    with place.start(f"{carrier}exec {program} {port} cert.pem key.pem next") as running:
        running.wait_for(b"ready\n")
        yield running


def test_clients_notice_nothing(place: Place) -> None:
    """A line that began with one version is ended by the next; what is relayed stays to its end."""
    port, authority = free_port(), place.folder / "authority.pem"
    with _version(place, port) as old:
        early = _Client(old, port, authority)
        first, answer = early.ask(b"one\n")
        assert answer == b"one\n"
        early.stream.sendall(b"half of ")
        with _version(place, port) as new:
            late = _Client(new, port, authority)
            second, answer = late.ask(b"two\n")
            assert (first != second, answer) == (True, b"two\n")
            goes_on = first if place.carrier == RELAY else second
            assert early.ask(b"a line\n") == (goes_on, b"half of a line\n")
            early.close()
            assert old.output() == b"ready\n"
            late.close()
            assert (old.errors(), new.errors()) == ("", "")


def test_a_successor_that_fails(place: Place) -> None:
    """The version that runs goes on with all that it had."""
    port, authority = free_port(), place.folder / "authority.pem"
    with _version(place, port) as old:
        early = _Client(old, port, authority)
        early.stream.sendall(b"half of ")
        late = _Client(old, port, authority)
        process, _ = late.ask(b"one\n")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.connect(str(place.folder / "next"))
            _, descriptors, _, _ = socket.recv_fds(channel, 2**16, 1)
            os.close(descriptors[0])
        assert late.ask(b"two\n") == (process, b"two\n")
        assert early.ask(b"a line\n") == (process, b"half of a line\n")
        early.close()
        late.close()


# Adopts all that it is sent, and then ends as its argument says.
_FAILING = """
import os, signal, socket, sys
from tlsify import TLSSocket, adopt

channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
channel.connect("next")
taken = []
while (message := socket.recv_fds(channel, 196608, 1))[0] != b"end":
    if taken:
        size = 4 + int.from_bytes(message[0][:4])
        sock = socket.socket(fileno=message[1][0])
        taken.append(TLSSocket(adopt(sock, message[0][size:])))
    else:
        taken.append(socket.socket(fileno=message[1][0]))
print(len(taken), "taken", flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit("it has failed")
"""


@pytest.mark.parametrize("end", ["killed", "in order"])
def test_a_successor_that_dies_after_adopting(place: Place, end: str) -> None:
    """The version that runs goes on: nobody has used the connections meanwhile."""
    port, authority = free_port(), place.folder / "authority.pem"
    place.write("failing.py", _FAILING)
    with _version(place, port) as old:
        client = _Client(old, port, authority)
        process, _ = client.ask(b"one\n")
        client.stream.sendall(b"half of ")
        failing = f'{sys.executable} failing.py "{end}"; echo ended'
        with place.start(failing) as successor:
            number = 1 if place.carrier == RELAY else 2
            successor.wait_for(f"{number} taken\n".encode())
            successor.wait_for(b"ended\n")
        assert client.ask(b"a line\n") == (process, b"half of a line\n")
        client.close()
