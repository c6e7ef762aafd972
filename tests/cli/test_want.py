"""A moment of want in commands: their processes, and those that they fork, count together."""

from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import pytest

from tests.cli.forked import Forked
from tests.cli.harness import LOOPBACK, PATIENCE, Server, fetch, over_tls
from tests.doubles import Endpoint
from tests.want import KINDS, Want
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Pki

# On the kernel path what the library's own sockets lack (tests/test_want.py) shows most of it.
each_carrier = pytest.mark.parametrize(
    "carrier",
    [
        pytest.param("--ktls=off", id="relay"),
        pytest.param("--ktls=require", id="kernel", marks=[pytest.mark.ktls, pytest.mark.full_run]),
    ],
)
SIZE = 100_000
# Bytes, and whether they ended with close_notify.
Arrived: TypeAlias = tuple[int, bool]
# A program that waits for a question, and answers it.
_PROGRAM = ("sh", "-c", f"head -c 1 <&6 >/dev/null && head -c {SIZE} /dev/zero >&7")


# And one that answers a request.
_SAID = "HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nindex"
_ANSWER = ("sh", "-c", f"head -c 10 >/dev/null; printf '{_SAID}'")


def _until_enough(kind: str, live: Callable[[Want], None]) -> int:
    """Deny its nth resource to life after life, until there is no nth; return how many."""
    nth = 1
    while True:
        want = Want(kind, nth)
        live(want)
        if not want.has_failed:
            return nth - 1
        nth += 1


@pytest.mark.parametrize("kind", KINDS)
@each_carrier
def test_program(pki: Pki, kind: str, carrier: str) -> None:
    """PROG is not run, or finds its connection; its peer sees all of it, or an end without."""

    def serve(stream: ssl.SSLSocket) -> Arrived:
        size = 0
        try:
            stream.sendall(b"?")
            while received := stream.recv(2**16):
                size += len(received)
        except OSError:
            return size, False
        return size, True

    def live(want: Want) -> None:
        def serve_or_refuse(sock: socket.socket) -> Arrived:
            try:
                return cast("Arrived", over_tls(pki.good.server_context(), serve)(sock))
            except OSError:
                return 0, False

        server = Server(serve_or_refuse)
        words = (carrier, "connect", "--ca", pki.authority, "localhost", str(server.port), "--")
        with Forked(*words, *_PROGRAM, within=want) as command:
            status = command.end()
            if want.has_failed and status:
                with suppress(OSError):  # it may never have come to connect
                    socket.create_connection((LOOPBACK, server.port)).close()
            arrived = server.result()
        assert (arrived == (SIZE, True)) is (status == 0) or want.has_failed
        # It may be kernel TLS that fails, or the connection under PROG's feet.
        others = {ExitCode.KTLS, ExitCode.COMMIT, 1, 141} if "require" in carrier else set()
        others |= {1, 141} if kind == "epoll_ctl" else set()
        assert status == 0 or (want.has_failed and status in {ExitCode.SYSTEM, *others})
        assert arrived != (0, True), "an end in good order, with nothing of the answer"

    lacked = _until_enough(kind, live)
    assert lacked or kind not in {"fork", "socketpair", "dup"}


class _Peer(NamedTuple):
    """The other side of a command that carries stdin and stdout.

    Attributes:
        words: for the command.
        sock: of the command, if it takes one.
        result: waits for its end.
    """

    words: tuple[str | int | Path, ...]
    sock: socket.socket | None
    result: Callable[[], object]


def _send(stream: ssl.SSLSocket) -> None:
    stream.sendall(bytes(SIZE))
    stream.shutdown(socket.SHUT_RDWR)  # the command may have been forked with a copy


def _connect(pki: Pki) -> _Peer:
    server = Server(_unless_cut(over_tls(pki.good.server_context(), _send)))

    def end() -> object:
        with suppress(OSError):  # it may never have come to connect
            socket.create_connection((LOOPBACK, server.port)).close()
        return server.result()

    return _Peer(("connect", "--ca", pki.authority, "localhost", server.port), None, end)


def _ssl_client(pki: Pki) -> _Peer:
    server = Server(_unless_cut(over_tls(pki.good.server_context(), _send)))
    sock = socket.create_connection((LOOPBACK, server.port))
    words = ("ssl_client", "-s", sock.fileno(), "-n", "localhost", "--ca", pki.authority)
    return _Peer(words, sock, server.result)


def _accept(pki: Pki) -> _Peer:
    with socket.create_server((LOOPBACK, 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()

    def ask() -> None:
        with pki.client_context().wrap_socket(ours, server_hostname="localhost") as stream:
            _send(stream)

    words = ("accept", "--cert", pki.good.certificate, "--key", pki.good.key)
    peer = Endpoint(lambda: _unless_cut(lambda _: ask())(ours))
    return _Peer((*words, "--fd", theirs.fileno()), theirs, peer.result)


def _unless_cut(work: Callable[[socket.socket], object]) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            work(sock)

    return serve


_STREAMS = {"connect": _connect, "ssl_client": _ssl_client, "accept": _accept}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind == "thread" else [pytest.mark.occasional])
        for kind in KINDS
    ],
)
@pytest.mark.parametrize("door", _STREAMS)
@each_carrier
def test_standard_streams(pki: Pki, kind: str, door: str, carrier: str) -> None:
    """All comes out, or an error names what was lacking; the peer's end is never for nothing."""

    def live(want: Want) -> None:
        (verb, *words), sock, result = _STREAMS[door](pki)
        words = ["--close=relaxed", *words]
        if door != "ssl_client":
            words = ["--ignore-eof", "--idle=60", *words]
        with Forked(carrier, verb, *words, within=want) as command:
            if sock is not None:
                sock.close()
            size = 0
            while received := os.read(command.output, 2**16):
                size += len(received)
            status = command.end()
            assert not status or "tlsify: hint: " in command.said()
            result()
        assert status == 0 or want.has_failed
        others = {ExitCode.KTLS, ExitCode.COMMIT} if "require" in carrier else set()
        assert status in {0, ExitCode.SYSTEM, *others}
        assert (size == SIZE) or status

    assert _until_enough(kind, live) or kind != "thread"


class Backend(NamedTuple):
    """Ports of a server."""

    plain: int
    tls: int


@pytest.fixture
def backend(pki: Pki, tmp_path: Path) -> Iterator[Backend]:
    """Servers of HTTP, without TLS and with it."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=tmp_path)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "index.html").write_bytes(b"index")
    with ExitStack() as stack:
        servers = [stack.enter_context(ThreadingHTTPServer((LOOPBACK, 0), Handler)) for _ in "ab"]
        servers[1].socket = stack.enter_context(
            pki.good.server_context().wrap_socket(
                servers[1].socket, server_side=True, do_handshake_on_connect=False
            )
        )
        serving = [Endpoint(server.serve_forever) for server in servers]
        yield Backend(*(server.server_address[1] for server in servers))
        for server, each in zip(servers, serving, strict=True):
            server.shutdown()
            each.result()


# What fails of options is ignored, or fails one connection, as everywhere. Of key holders these are
# what a server without them does not take at the same places; files are opened some fifty times.
_HOLDERS_TAKE = {"fork", "socketpair", "epoll", "pipe"}
_VERBS_AND_KINDS = [
    pytest.param(
        verb,
        kind,
        marks=[
            *([pytest.mark.timeout(1800)] if kind == "open" else []),  # fifty starts, emulated
            *([pytest.mark.occasional] if kind == "open" or kind not in usual else []),
        ],
    )
    for verb, usual in (
        ("serve", KINDS),
        ("serve --isolate-key", _HOLDERS_TAKE),
        ("forward", KINDS),
        ("forward tls", {"socket"}),
        ("forward --connect", {"thread"}),
        ("listen", KINDS),
    )
    for kind in KINDS
    if not kind.endswith("sockopt")
]


def _words(verb: str, pki: Pki, folder: Path, backend: Backend) -> tuple[str | Path, ...]:
    name, _, rest = verb.partition(" ")
    words: tuple[str | Path, ...] = (name, "--access-log", folder / "log")
    if rest != "--connect":
        words += ("--cert", pki.good.certificate, "--key", pki.good.key)
    if name == "listen":
        return (*words, f"{LOOPBACK}:0", "--", *_ANSWER)
    words += ("--workers", "1")
    if name == "serve":
        return (*words, *rest.split(), "--listen", f"{LOOPBACK}:0", folder)
    if not rest:
        return (*words, f"{LOOPBACK}:0", f"{LOOPBACK}:{backend.plain}")
    words += ("--backend-ca", pki.authority)
    words += ("--connect",) if rest == "--connect" else ()
    return (*words, f"{LOOPBACK}:0", f"tls:localhost:{backend.tls}")


@pytest.mark.parametrize(("verb", "kind"), _VERBS_AND_KINDS)
@each_carrier
def test_server(
    pki: Pki, tmp_path: Path, backend: Backend, verb: str, kind: str, carrier: str
) -> None:
    """It does not start, and says why, or all but one client are served, and it can be ended."""
    words = _words(verb, pki, tmp_path, backend)
    context = None if verb == "forward --connect" else pki.client_context()

    def live(want: Want) -> None:
        with Forked(carrier, *words, within=want) as command:
            line = command.line()
            if not line:
                assert command.end() == ExitCode.SYSTEM
                assert "tlsify: hint: " in command.said()
                assert want.has_failed
                return
            port = int(re.findall(r":(\d+)\b", line)[0])
            answers = [_ask(context, port) for _ in range(2)]
            assert answers.count(b"index") >= len(answers) - want.has_failed
            command.ask_to_end()
            assert command.end() == 0

    _until_enough(kind, live)


def _ask(context: ssl.SSLContext | None, port: int) -> bytes:
    """Fetch a page, without TLS if there is no context."""
    try:
        if context is not None:
            return fetch(port, context)[1]
        with closing(HTTPConnection(LOOPBACK, port, timeout=PATIENCE)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().read()
    except (OSError, HTTPException):
        return b""


class _Interruptions(AbstractContextManager[None]):
    """A signal each millisecond to this process, whatever it waits in; forked ones have none."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("verb", ["serve", "serve --isolate-key", "forward", "listen"])
def test_interrupted_server(pki: Pki, tmp_path: Path, backend: Backend, verb: str) -> None:
    """No system call of the process that does all, or looks after all, minds (EINTR)."""
    with Forked(
        "--ktls=off", *_words(verb, pki, tmp_path, backend), within=_Interruptions()
    ) as command:
        port = int(re.findall(r":(\d+)\b", command.line())[0])
        assert [_ask(pki.client_context(), port) for _ in range(2)] == [b"index"] * 2
        command.signal(signal.SIGHUP)
        assert _ask(pki.client_context(), port) == b"index"
        command.ask_to_end()
        assert command.end() == 0


def test_interrupted_client(pki: Pki) -> None:
    """Neither does a client's."""

    def serve(stream: ssl.SSLSocket) -> None:
        stream.sendall(bytes(SIZE))

    server = Server(over_tls(pki.good.server_context(), serve))
    words = ("--ignore-eof", "--close=relaxed", "--ca", pki.authority, "localhost", server.port)
    with Forked("--ktls=off", "connect", *words, within=_Interruptions()) as command:
        received = 0
        while more := os.read(command.output, 2**16):
            received += len(more)
        assert (received, command.end()) == (SIZE, 0)
    server.result()
