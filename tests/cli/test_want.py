"""A moment of want in commands: their processes, and those that they fork, count together."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from http.client import HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, TypeAlias, cast

import pytest

from tests.cli.forked import Forked
from tests.cli.harness import LOOPBACK, Server, fetch, over_tls
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


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[int]:
    """A server of HTTP."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=tmp_path)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "index.html").write_bytes(b"index")
    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        serving = Endpoint(server.serve_forever)
        yield server.server_address[1]
        server.shutdown()
        serving.result()


# What fails of options is ignored, or fails one connection, as everywhere. Of key holders these are
# what a server without them does not take at the same places.
_HOLDERS_TAKE = {"fork", "socketpair", "epoll"}
_VERBS_AND_KINDS = [
    pytest.param(
        verb, kind, marks=[pytest.mark.occasional] if isolated and kind not in _HOLDERS_TAKE else []
    )
    for verb, isolated in (("serve", False), ("serve --isolate-key", True), ("forward", False))
    for kind in KINDS
    if not kind.endswith("sockopt")
]


@pytest.mark.parametrize(("verb", "kind"), _VERBS_AND_KINDS)
@each_carrier
def test_server(pki: Pki, tmp_path: Path, backend: int, verb: str, kind: str, carrier: str) -> None:
    """It does not start, and says why, or all but one client are served, and it can be ended."""
    given = ("--cert", pki.good.certificate, "--key", pki.good.key, "--workers", "1")
    context = pki.client_context()
    words: tuple[str | Path, ...] = (carrier, *verb.split(), *given)
    if verb != "forward":
        words += ("--listen", f"{LOOPBACK}:0", tmp_path)
    else:
        words += (f"{LOOPBACK}:0", f"{LOOPBACK}:{backend}")

    def live(want: Want) -> None:
        with Forked(*words, within=want) as command:
            line = command.line()
            if not line:
                assert command.end() == ExitCode.SYSTEM
                assert want.has_failed
                return
            port = int(re.findall(r":(\d+)\b", line)[0])
            answers = [_ask(context, port) for _ in range(2)]
            assert answers.count(b"index") >= len(answers) - want.has_failed
            command.ask_to_end()
            assert command.end() == 0

    _until_enough(kind, live)


def _ask(context: ssl.SSLContext, port: int) -> bytes:
    try:
        return fetch(port, context)[1]
    except (OSError, HTTPException):
        return b""
