"""What every server with threads, or a loop of its own, is put through."""

from __future__ import annotations

import http.client
import socket
import struct
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.doubles import RawPeer, reset
from tests.integrations.harness import Served, arrange
from tests.interop.programs import TIMEOUT
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

    from tlsify.config import ClientConfig

# For parametrize: what a program is told (`Task.ktls`).
PATHS = (
    pytest.param("off", id="relay"),
    pytest.param("require", id="kernel", marks=pytest.mark.ktls),
)
_ALERT = 21


class Server(NamedTuple):
    """A server.

    Attributes:
        name: in the table.
        program: its file in programs/.
        package: of which the version is shown; empty for what comes with Python.
        keeps_alive: whether it takes several requests on one connection.
        sendfile: whether it sends files so.
        interruptible: whether Ctrl-C ends it beside an idle client, with Python's `ssl`, too.
        is_variant: whether its package and its kind of loop are tried with another one, too.
        started: what it says when its start is over, if Ctrl-C comes too early before that.
        options: for the program.
        together: more options, for it to serve several connections at a time.
    """

    name: str
    program: str
    package: str = ""
    keeps_alive: bool = True
    sendfile: bool = False
    interruptible: bool = True
    is_variant: bool = False
    started: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    together: dict[str, Any] = {}  # noqa: RUF012 - likewise


def trials(
    *servers: Server, also: Callable[[Served], None] = lambda _: None
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Make the two tests that each server has on each path: `show` and `endure`.

    Args:
        servers: each is started for each test.
        also: what else these show.
    """
    return _test(partial(show, also), servers), _test(endure, servers)


def _test(
    trial: Callable[[Server, Path, trustme.CA, str], None], servers: tuple[Server, ...]
) -> Any:
    given = []
    # What they show is in a table. What they endure is hard in handshakes, which are the same on
    # either path: on that of the kernel one of them has to.
    for number, server in enumerate(servers):
        marks = [pytest.mark.occasional] if server.is_variant and trial is endure else []
        given.append(pytest.param("off", server, id=f"relay-{server.name}", marks=marks))
        marks = [pytest.mark.ktls, *([pytest.mark.full_run] if number and trial is endure else [])]
        given.append(pytest.param("require", server, id=f"kernel-{server.name}", marks=marks))

    @pytest.mark.interop
    @pytest.mark.timeout(TIMEOUT)
    @pytest.mark.parametrize(("ktls", "server"), given)
    def test(tmp_path: Path, authority: trustme.CA, server: Server, ktls: str) -> None:
        trial(server, tmp_path, authority, ktls)

    return test


def show(
    also: Callable[[Served], None], server: Server, folder: Path, authority: trustme.CA, ktls: str
) -> None:
    """Scheme, protocol, client and offload reach the application; files go as they should."""
    task = arrange(folder, authority, ktls, **server.options)
    with Served(server.program, task, authority) as served:
        row = served.judge(server.name, server.package, keeps_alive=server.keeps_alive)
        assert row.alpn == "http/1.1"
        assert bool(row.sendfile) == server.sendfile
        # Who shows no certificate is served, too, and is nobody.
        assert served.ask_anew(served.context(), "/peer") == b"-"
        also(served)


def endure(server: Server, folder: Path, authority: trustme.CA, ktls: str) -> None:
    """Garbage, stalled handshakes, clients that vanish: others are served, nothing is blamed."""
    task = arrange(folder, authority, ktls, **server.options, **server.together)
    with Served(server.program, task, authority) as served, ExitStack() as stack:
        context = served.context()
        served.ask_anew(context, "/scheme")
        address = ("127.0.0.1", task.port)
        stack.enter_context(socket.create_connection(address))  # stalls
        with socket.create_connection(address) as begun:
            begun.sendall(b"\x16\x03\x01")
        for _ in range(3):
            rude = stack.enter_context(socket.create_connection(address, timeout=60))
            rude.sendall(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
            answer = rude.recv(100)
            assert answer[0] == _ALERT, answer  # and nothing in clear
            reset(stack.enter_context(socket.create_connection(address)))
        for _ in range(3):
            _vanish(served)
        assert served.ask_anew(context, "/scheme") == b"https"
        errors = served.program.errors()
        assert "Traceback" not in errors, errors
        idle = stack.enter_context(closing(served.connect(context)))
        if server.keeps_alive:
            served.ask(idle, "/scheme")
        if server.interruptible:
            served.program.wait_for_error(server.started)
            served.interrupt()


def break_off(server: Server, folder: Path, authority: trustme.CA, ktls: str) -> None:
    """An answer that its application did not finish is not taken for a whole one."""
    task = arrange(folder, authority, ktls, **server.options)
    with Served(server.program, task, authority) as served:
        assert served.ends_cleanly("/whole")
        for path in ("/bug", "/reset", "/written"):
            assert not served.ends_cleanly(path), path
        assert served.ask_anew(served.context(), "/scheme") == b"https"


def update_key(
    server: Server, folder: Path, authority: trustme.CA, ktls: str, config: ClientConfig
) -> None:
    """Right behind a request comes a KeyUpdate; the connection's next request is answered, too."""
    task = arrange(folder, authority, ktls, **server.options)
    with (
        Served(server.program, task, authority),
        socket.create_connection(("127.0.0.1", task.port), timeout=60) as sock,
    ):
        peer = RawPeer(sock, config)
        request = b"POST /echo HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\n\r\nhello"
        update = KeyUpdateRequest.update_not_requested
        for _ in range(3):
            sock.sendall(peer.data(request) + peer.key_update(update))
            received = b""
            while not received.endswith(b"\r\n\r\nhello"):
                record = peer.recv()
                assert record is not None, received
                received += record[1]


def _vanish(served: Served) -> None:
    """Ask for the big file, and go away in the middle of it."""
    with closing(served.connect(served.context())) as sock:
        connection = http.client.HTTPConnection("example.org")
        connection.sock = sock
        connection.request("GET", "/file")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with connection.getresponse() as response:
            assert len(response.read(1000)) == 1000
