"""Tests of passage: what a relayed connection carries, and how its sides hear of ends."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import ssl
from functools import partial, partialmethod
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import Pki
from tests.doubles import CLOSE_NOTIFY, RawPeer, descriptors, flipped, reset, until
from tests.wrap.wrapped import CARRIERS, RELAY, SERVE, Wrapped, needs_seccomp, read_all
from tlsify.codepoints import AlertDescription, ProtocolVersion
from tlsify.config import ClientConfig
from tlsify.connection import commit
from tlsify.errors import KtlsUnavailable, ReasonCode
from tlsify.wrap.relay import pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.codepoints import CipherSuite
    from tlsify.credentials.anchors import TrustAnchors

pytestmark = needs_seccomp

_SIZE = 3_000_000
_CLOSE_WAIT = "08"  # include/net/tcp_states.h, as /proc/net/tcp spells it


def _raw(trust: TrustAnchors, program: Wrapped) -> RawPeer:
    sock = socket.create_connection(program.server, 60)
    return RawPeer(sock, ClientConfig.for_host("localhost", trust=trust))


_ECHO = """
listener = listen()
while True:
    sock, _ = listener.accept()
    data = b"".join(iter(lambda: sock.recv(2**16), b""))
    sock.sendall(data)
    sock.close()
"""


def test_both_ways(pki: Pki, trust: TrustAnchors, tmp_path: Path) -> None:
    """All arrives, behind an end of the other direction, too; what was carried is counted."""
    data = os.urandom(_SIZE)
    log = tmp_path / "log"
    with Wrapped(pki, RELAY, _ECHO, f"--access-log={log}") as program:
        peer = _raw(trust, program)
        with peer.sock:
            for at in range(0, _SIZE, 2**14):
                peer.send_data(data[at : at + 2**14])
            peer.close_notify()
            assert peer.recv_data(_SIZE) == data
            assert peer.recv() == CLOSE_NOTIFY
        until(lambda: "connection" in log.read_text())
        line = log.read_text()
        assert re.search(
            rf"carrier=relay reason=\S+ .* received={_SIZE} sent={_SIZE} .*end=clean", line
        )


_AFTER_A_CUT = """
import select
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
listener = listen()
while True:
    sock, _ = listener.accept()
    if KIND == "moved later":
        signal.sigwait([signal.SIGUSR1])
    if "moved" in KIND:
        os.dup2(sock.fileno(), 0)
        sock.close()
        sock = socket.socket(fileno=0)
    found = []
    select.select([sock], [], [])
    while not found or found[-1]:
        try:
            found.append(sock.recv(100).decode())
        except OSError as exc:
            found += [exc.errno, 0]
    try:
        sock.sendall(b"answer")
    except OSError:
        found.append("reset")
    sock.close()
    print(found, flush=True)
"""


def _has_been_read(client: socket.socket) -> bool:
    """Return whether the end of what a client has sent has been received."""
    own = f":{client.getsockname()[1]:04X}"
    with open("/proc/net/tcp", encoding="ascii") as lines:
        rows = [line.split() for line in lines]
    return any(
        row[2].endswith(own) and row[3] == _CLOSE_WAIT and row[4].endswith(":00000000")
        for row in rows
    )


@pytest.mark.parametrize("kind", ["asked", "bare", "moved", "moved later"])
def test_cut(pki: Pki, trust: TrustAnchors, kind: str) -> None:
    """It is never taken for an end; where reads are asked about, the program may still answer."""
    source = _AFTER_A_CUT.replace("KIND", repr(kind))
    with Wrapped(pki, RELAY, source, *["--bare"][: kind == "bare"]) as program:
        peer = _raw(trust, program)
        with peer.sock:
            peer.send_data(b"data")
            peer.sock.shutdown(socket.SHUT_WR)
            if kind == "moved later":
                until(lambda: _has_been_read(peer.sock))
                program.signal(signal.SIGUSR1)
            expected: list[object] = ["data", errno.ECONNRESET, 0]
            expected += ["reset"][: kind != "asked"]
            assert program.line() == f"{expected}\n"
            if kind == "asked":
                assert peer.recv_data(6) == b"answer"
                assert peer.recv() == CLOSE_NOTIFY
            else:
                assert peer.recv() is None


def test_answer_to_a_client_that_has_yet_to_send(pki: Pki) -> None:
    """A client that sends all before it reads gets what a program has left that reads nothing."""
    source = f"""
sock, _ = listen().accept()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
sock.sendall(bytes({2 * _SIZE}))
sock.close()
"""
    with Wrapped(pki, RELAY, source) as program:
        with program.connect() as client:
            for each in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                client.setsockopt(socket.SOL_SOCKET, each, 2**16)
            client.sendall(bytes(8 * _SIZE))
            assert len(read_all(client)) == 2 * _SIZE
        assert program.end() == 0


_WRITE_FOR_EVER = """
listener = listen()
while True:
    sock, _ = listener.accept()
    try:
        while True:
            sock.sendall(bytes(2**20))
    except OSError as exc:
        print(exc.errno, flush=True)
    sock.close()
"""


def test_client_that_leaves(pki: Pki) -> None:
    """A program that writes hears of it, also from a client that has ended its direction before."""
    with Wrapped(pki, RELAY, _WRITE_FOR_EVER) as program:
        for say in (_say, _end, _cut):
            client = program.connect()
            say(client)
            assert client.recv(1)
            reset(client)
            assert int(program.line()) in {errno.ECONNRESET, errno.EPIPE}


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (lambda peer: peer.send_alert(AlertDescription.internal_error), "peer_alert"),
        (lambda peer: peer.sock.sendall(flipped(peer.data(b"x"))), "peer_misbehaved"),
    ],
    ids=["alert", "bad record"],
)
def test_log_of_an_end_amid_an_answer(
    pki: Pki, trust: TrustAnchors, tmp_path: Path, sent: Callable[[RawPeer], object], end: str
) -> None:
    """It has what the client has done, not that the program's side was reset therefore."""
    source = """
sock, _ = listen().accept()
sock.sendall(b"begun")
try:
    sock.recv(1)
except OSError as exc:
    print(exc.errno, flush=True)
"""
    log = tmp_path / "log"
    with Wrapped(pki, RELAY, source, f"--access-log={log}") as program:
        peer = _raw(trust, program)
        with peer.sock:
            assert peer.recv()
            sent(peer)
            assert int(program.line()) == errno.ECONNRESET
            until(lambda: "connection" in log.read_text())
    assert f" end={end} " in log.read_text()


@CARRIERS
def test_reset_behind_an_end(pki: Pki, trust: TrustAnchors, carrier: str) -> None:
    """A program that waits for nothing else hears of it, and finds the end that was there."""
    source = """
import select
listener = listen()
def read():
    try:
        return sock.recv(100).decode()
    except OSError as exc:
        return exc.errno
for first in (0, 2) * 2:
    sock, _ = listener.accept()
    found = [read() for _ in range(first)]
    poll = select.poll()
    poll.register(sock, 0)
    print("waits", flush=True)
    poll.poll(60_000)
    print(found + [read() for _ in range(3 - first)], flush=True)
    sock.close()
"""
    with Wrapped(pki, carrier, source) as program:
        for is_whole in (True, True, False, False):
            peer = _raw(trust, program)
            peer.send_data(b"data")
            if is_whole:
                peer.close_notify()
            peer.sock.shutdown(socket.SHUT_WR)
            assert program.line() == "waits\n"
            if carrier == RELAY:
                until(partial(_has_been_read, peer.sock))
            reset(peer.sock)
            end: object = "" if is_whole else errno.ECONNRESET
            assert program.line() == f"{['data', end, end]}\n"
        assert program.end() == 0


def _say(client: ssl.SSLSocket) -> None:
    client.sendall(b"x")


def _cut(client: ssl.SSLSocket) -> None:
    """Break off behind data that the program has yet to read."""
    client.sendall(b"x")
    client.shutdown(socket.SHUT_WR)


def _end(client: ssl.SSLSocket) -> None:
    """Send close_notify, and wait for nothing."""
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()
    client.setblocking(True)


def test_nothing_is_left(pki: Pki) -> None:
    """Each connection's descriptors are closed, however it ends."""
    source = """
listener = listen()
while True:
    sock, _ = listener.accept()
    try:
        if sock.recv(1) == b"k":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1,)) + bytes(7))
    except OSError:
        pass
    sock.close()
"""
    with Wrapped(pki, RELAY, source) as program:
        before = _sockets(program)
        for say in (b"", b"x", b"k") * 3:
            with program.connect() as client:
                client.sendall(say)
                if say == b"x":
                    read_all(client)
        until(lambda: _sockets(program) <= before)


def _sockets(program: Wrapped) -> int:
    return sum("socket:" in each for each in descriptors(program._pid))


def test_supervisor_is_killed(pki: Pki) -> None:
    """Neither side takes that for an end in good order."""
    source = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sock, _ = listen().accept()
print(sock.recv(9), flush=True)
try:
    print(sock.recv(9), flush=True)
except OSError as exc:
    print(exc.errno, flush=True)
"""
    with Wrapped(pki, RELAY, source, "--bare") as program, program.connect() as client:
        client.sendall(b"data")
        assert program.line() == "b'data'\n"
        program.signal(signal.SIGKILL)
        assert program.line() == f"{errno.ECONNRESET}\n"
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            client.recv(1)


def test_program_that_never_accepts(pki: Pki) -> None:
    """Its clients see no good end once it has ended."""
    with Wrapped(pki, RELAY, "listener = listen()\nsignal.pause()\n") as program:
        with program.connect() as client:
            program.ask_to_end()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                client.recv(1)
        assert program.end() == 128 + signal.SIGTERM


def test_want(pki: Pki, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there can be no pair a client is cut, and others may come; the first want is told."""
    make, wants = pair.make, [errno.EMFILE, errno.ENFILE]

    async def make_later(*words: Any) -> tuple[pair.OurEnd, socket.socket]:
        if wants:
            raise OSError(wants[0], os.strerror(wants.pop(0)))
        return await make(*words)

    monkeypatch.setattr(pair, "make", make_later)
    log = tmp_path / "log"
    source = f"{SERVE}\nlistener = listen()\nserve(*listener.accept())"
    with Wrapped(pki, RELAY, source, f"--access-log={log}") as program:
        for _ in range(2):
            with program.connect() as client, pytest.raises((ssl.SSLEOFError, ConnectionError)):
                client.recv(1)
        program.ask()
        assert program.end() == 0
        assert log.read_text().count("end=resources") == 2
        assert program.said().count("the connection cannot be relayed: EMFILE") == 1
        assert "ENFILE" not in program.said()


@pytest.mark.ktls
@pytest.mark.each_kernel
def test_one_that_the_kernel_does_not_take(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Connections of both kinds are a program's, and it can tell no difference."""
    refusal = KtlsUnavailable("ktls", 0, "not this one", code=ReasonCode.SUITE_UNSUPPORTED)

    def refuse(suite: CipherSuite, _policy: object) -> KtlsUnavailable | None:
        return refusal if suite.version is ProtocolVersion.TLSv1_2 else None

    monkeypatch.setattr(commit, "suite_refusal", refuse)
    log = tmp_path / "log"
    source = f"{SERVE}\nlistener = listen()\nfor _ in range(2): serve(*listener.accept())"
    with Wrapped(pki, RELAY, source, f"--access-log={log}") as program:
        program.ask()
        monkeypatch.setattr(Pki, "client_context", partialmethod(_only_tls12, Pki.client_context))
        program.ask()
        assert program.end() == 0
    found = re.findall(r"version=(\S+) .*carrier=(\S+) reason=(\S+)", log.read_text())
    assert found == [("TLSv1.3", "kernel", "-"), ("TLSv1.2", "relay", ReasonCode.SUITE_UNSUPPORTED)]


def _only_tls12(pki: Pki, make: Callable[[Pki], ssl.SSLContext]) -> ssl.SSLContext:
    context = make(pki)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context
