"""Tests of accept."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused
from tests.cli.harness import (
    CARRIERS,
    COMMAND,
    ENVIRONMENT,
    LOOPBACK,
    PATIENCE,
    Outcome,
    finish,
    read_all,
    run,
    start,
)
from tlsify.ktls.probe import loopback_pair

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and the one that was accepted."""
    with loopback_pair() as (ours, theirs):
        ours.settimeout(PATIENCE)
        yield ours, theirs


def _identity(pki: Pki) -> tuple[str | Path, ...]:
    return ("--cert", pki.good.certificate, "--key", pki.good.key)


def _ask(pki: Pki, sock: socket.socket, question: bytes) -> bytes:
    """Be the client: ask, end the own direction and read to the end."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stream = pki.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")

    def until_done(step: object) -> object:
        while True:
            try:
                return step()  # type: ignore[operator]
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                if not (received := sock.recv(2**16)):
                    raise
                incoming.write(received)
            finally:
                if outgoing.pending:
                    sock.sendall(outgoing.read())

    until_done(stream.do_handshake)
    stream.write(question)
    with suppress(ssl.SSLWantReadError):
        stream.unwrap()
    sock.sendall(outgoing.read())
    received = b""
    with suppress(ssl.SSLZeroReturnError):
        while more := until_done(lambda: stream.read(2**16)):
            assert isinstance(more, bytes)
            received += more
    return received


def _start(
    pki: Pki, sock: socket.socket, *words: str, **options: object
) -> subprocess.Popen[bytes]:
    """Start it on a socket that is none of its three streams."""
    number = sock.fileno()
    return start(*("accept", "--fd", number, *_identity(pki), *words), pass_fds=[number], **options)


_SHOUT = "read line; echo $line | tr a-z A-Z; printf ."


@each_carrier
def test_program_as_inetd_runs_it(
    pki: Pki, pair: tuple[socket.socket, socket.socket], carrier: str
) -> None:
    """The connection is on 0 and 1, and was on all three streams."""
    ours, theirs = pair
    words = ("accept", *_identity(pki), "--", "sh", "-c", _SHOUT)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs.fileno())
    process = start(carrier, *words, **streams)
    theirs.close()
    assert _ask(pki, ours, b"hello\n") == b"HELLO\n."
    assert process.wait(PATIENCE) == 0


@each_carrier
def test_program_on_another_socket(
    pki: Pki, pair: tuple[socket.socket, socket.socket], carrier: str
) -> None:
    """Its stdin and stdout are the connection, its stderr is ours, and so is its status."""
    ours, theirs = pair
    script = f"{_SHOUT}; echo $SSL_PROTOCOL $SSL_TLS_SNI_SERVERNAME >&2; exit 7"
    process = _start(pki, theirs, carrier, "--", "sh", "-c", script)
    theirs.close()
    assert _ask(pki, ours, b"hello\n") == b"HELLO\n."
    assert finish(process) == Outcome(7, b"", "TLSv1.3 localhost\n")


def test_descriptors_of_the_program(pki: Pki, pair: tuple[socket.socket, socket.socket]) -> None:
    """Three, of which none is the bare connection."""
    ours, theirs = pair
    name = os.readlink(f"/proc/self/fd/{theirs.fileno()}")
    process = _start(pki, theirs, "--", "sh", "-c", "read x; ls -l /proc/self/fd >&2; printf .")
    theirs.close()
    assert _ask(pki, ours, b"\n") == b"."
    lines = [line for line in finish(process).err.splitlines() if "->" in line]
    assert name not in "".join(lines)
    assert [line.split()[8] for line in lines][:4] == ["0", "1", "2", "3"]  # 3 is ls's own
    assert len(lines) == 4


@each_carrier
def test_stdin_and_stdout(
    pki: Pki, pair: tuple[socket.socket, socket.socket], carrier: str
) -> None:
    """Without a program they are the other side."""
    ours, theirs = pair
    process = _start(pki, theirs, carrier)
    theirs.close()
    assert process.stdin is not None
    process.stdin.write(b"answer.")
    process.stdin.close()
    process.stdin = None
    assert _ask(pki, ours, b"question") == b"answer."
    assert finish(process).succeeded() == b"question"


def test_key_by_descriptor(pki: Pki, pair: tuple[socket.socket, socket.socket]) -> None:
    """It is read once; the program finds nothing of it."""
    ours, theirs = pair
    with pki.good.key.open("rb") as key:
        words = ("accept", "--cert", pki.good.certificate, "--key-fd", key.fileno(), "--")
        process = start(
            *words,
            "sh",
            "-c",
            "read x; ls /proc/self/fd | wc -l; printf .",
            stdin=theirs.fileno(),
            pass_fds=[key.fileno()],
        )
        theirs.close()
        assert _ask(pki, ours, b"\n") == b"4\n."
    assert finish(process).succeeded() == b""


def test_files_named_by_the_environment(
    pki: Pki, pair: tuple[socket.socket, socket.socket]
) -> None:
    """CERTFILE and KEYFILE, as ucspi-ssl and s6-tls have them, which the program never sees."""
    ours, theirs = pair
    given = {"CERTFILE": str(pki.good.certificate), "KEYFILE": str(pki.good.key)}
    script = 'read x; printf "<%s%s>." "$CERTFILE" "$KEYFILE"'
    process = start(
        "accept", "--", "sh", "-c", script, stdin=theirs.fileno(), env=ENVIRONMENT | given
    )
    theirs.close()
    assert _ask(pki, ours, b"\n") == b"<>."
    assert finish(process).succeeded() == b""


def test_client_that_speaks_no_tls(
    pki: Pki, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """It gets an alert, and the program is never started."""
    ours, theirs = pair
    process = _start(pki, theirs, "--", "touch", str(tmp_path / "started"))
    theirs.close()
    ours.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert read_all(ours)[:1] == b"\x15"
    finish(process).failed(97)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 100, "stdin is the connection"),
        (["--", "true"], 100, "certificate"),
        (["--key", "x", "--", "true"], 100, "without its certificate"),
        (["--cert", "/nonexistent", "--", "true"], 96, "/nonexistent"),
        (["--cert", "/nonexistent", "--key", "/nonexistent", "--", "true"], 96, "/nonexistent"),
    ],
)
def test_contradictions(words: list[str], status: int, said: str) -> None:
    """Each is told before anything is sent."""
    refused("accept", *words).failed(status, said)


def test_descriptor_that_is_no_connection(pki: Pki) -> None:
    """A file, a listening socket: 96."""
    run("accept", *_identity(pki), "--", "true").failed(96, "descriptor 0: not a socket")
    with socket.create_server((LOOPBACK, 0)) as listener:
        run("accept", *_identity(pki), "--", "true", stdin=listener.fileno()).failed(
            96, "not connected"
        )


_ACCOUNTS = {
    # Words and environment -> the program's user, the keeper's.
    "--user=nobody": ({}, "65534", "65534"),
    "--close=strict": ({"TLS_UID": "12345", "TLS_GID": "12346"}, "0", "12345"),
}


def test_keeper_gains_no_rights(pki: Pki, pair: tuple[socket.socket, socket.socket]) -> None:
    """It executes nothing; what the program may is the program's affair."""
    ours, theirs = pair
    children = "/proc/$$/task/$$/children"
    line = "sed -n 's/^NoNewPrivs:.//p;s/^Seccomp:.//p'"
    script = f"read k < {children}; for p in self $k; do {line} /proc/$p/status; done; printf ."
    words = ("accept", *_identity(pki), "--", "sh", "-c", script)
    process = start(*words, stdin=theirs.fileno())
    theirs.close()
    assert _ask(pki, ours, b"").decode().strip(".").split() == ["0", "0", "1", "2"]
    assert finish(process).status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("word", _ACCOUNTS)
def test_privileges(pki: Pki, pair: tuple[socket.socket, socket.socket], word: str) -> None:
    """--user is for both processes; TLS_UID and TLS_GID are for the one that does TLS alone."""
    ours, theirs = pair
    environment, *users = _ACCOUNTS[word]
    children = "/proc/$$/task/$$/children"
    uid = "sed -n 's/^Uid:.\\([0-9]*\\).*/\\1/p'"
    script = f"read k < {children}; for p in self $k; do {uid} /proc/$p/status; done; printf ."
    process = start(
        *("accept", *_identity(pki), word, "--", "sh", "-c", script),
        stdin=theirs.fileno(),
        env=ENVIRONMENT | environment,
    )
    theirs.close()
    assert _ask(pki, ours, b"").decode().strip(".").split() == users
    assert finish(process).status == 0


def test_user_that_does_not_exist(pki: Pki) -> None:
    """100, with the spelling that is expected."""
    words = (*_identity(pki), "--user", "no-such-user", "--", "true")
    refused("accept", *words).failed(100, "no-such-user", "NAME:GROUP")


def test_help() -> None:
    """It says where the program finds the connection."""
    assert b"descriptors 0 (read) and 1 (write)" in run("accept", "--help").succeeded()
    assert COMMAND[-1] == "tlsify"
