"""Tests of forward: what backends get, and what becomes of connections that nobody takes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.conftest import EXPECT_KTLS
from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    RELAY,
    Endpoint,
    check_descriptors,
    descriptors,
    recv_exactly,
    reset,
    until,
    vanish,
)
from tests.ports import free_port
from tests.want import Want
from tlsify.aio import watching
from tlsify.config import ClosePolicy
from tlsify.connection.adoption import adopt
from tlsify.connection.ending import patience
from tlsify.connection.handoff import Offload
from tlsify.connection.setup import keepalive
from tlsify.connection.stillness import Bounds
from tlsify.connection.stream import TLSSocket
from tlsify.errors import BackendError, PeerMisbehaved, Truncated
from tlsify.logs.access import AccessLog
from tlsify.logs.file import LogFile
from tlsify.logs.messages import JSON
from tlsify.metrics.counters import counters
from tlsify.passing import proxy_text
from tlsify.passing.metadata import ConnectionInfo
from tlsify.passing.proxy_protocol import decode
from tlsify.receiver import Receiver
from tlsify.serving.backend.address import Backend
from tlsify.serving.backend.choice import Backends
from tlsify.serving.backend.routes import Rule
from tlsify.serving.forward import Forwarding, Passing
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.doubles import Lab, RawPeer
    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

# How long backends are waited for that will not do, in seconds: a guest needs more for one attempt.
SHORT = 2.0 if EXPECT_KTLS else 0.1
both = pytest.mark.parametrize("policy", OFFLOADS)


@pytest.fixture(autouse=True)
def _inline(lab: Lab) -> None:
    """Make connections as forward does."""
    lab.is_inline = True


STRICT = ClosePolicy.STRICT


def to(*backends: Backend, timeout: float = 5, retry: float = 0) -> Backends:
    """All connections go there."""
    return Backends([Rule(None, None, backends)], timeout, retry)


def serving(service: Forwarding | Passing, handed: Handoff) -> Endpoint[None]:
    """Serve one connection, in a thread with a loop of its own."""

    async def serve() -> None:
        await service.start()
        try:
            await service.serve(handed)
        finally:
            await service.drain()
            await service.stop()

    return Endpoint(lambda: asyncio.run(serve(), debug=True))


@contextmanager
def listening(where: str | tuple[str, int], backlog: int = 10) -> Iterator[socket.socket]:
    """Be a backend's listening socket: for descriptors at a path, for data at an address."""
    if isinstance(where, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    else:
        sock = socket.socket()
    with sock:
        sock.settimeout(60)
        sock.bind(where)
        sock.listen(backlog)
        yield sock


def receive(listener: socket.socket) -> tuple[socket.socket, ConnectionInfo]:
    """Receive a connection as a program does that has read docs/passing.md and has no library."""
    with listener.accept()[0] as channel:
        message, numbers, _, _ = socket.recv_fds(channel, 2**18, 1)
    header, _ = ConnectionInfo.decode(message)
    sock = socket.socket(fileno=numbers[0])
    sock.settimeout(60)
    return sock, header


# -- plaintext to backends


def test_names_are_known_from_the_start() -> None:
    """A backend is looked up before the first client comes, when there may be no thread for it."""

    async def work(port: int) -> None:
        backend = Backend("localhost", port)
        service = Forwarding(to(backend), STRICT)
        await service.start()
        for thread in threading.enumerate():
            if thread.name == "tlsify-look-up":
                await asyncio.to_thread(thread.join)
        await asyncio.sleep(0.0)
        with Want("thread", 0):
            (await backend.connect(5)).close()
        await service.stop()

    with listening(("127.0.0.1", 0)) as listener:
        asyncio.run(work(listener.getsockname()[1]))


@pytest.mark.each_kernel
@both
@pytest.mark.parametrize("is_path", [False, True])
def test_plaintext(lab: Lab, policy: KtlsPolicy, tmp_path: Path, *, is_path: bool) -> None:
    """A backend gets the request in plain text, at an address or a path, and answers."""
    handed, peer = lab.server(policy)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX if is_path else socket.AF_INET) as listener:
        listener.bind(path if is_path else ("127.0.0.1", 0))
        listener.listen()
        name = f"unix:{path}" if is_path else "{}:{}".format(*listener.getsockname())
        lines = tmp_path / "log"
        log = AccessLog(LogFile(str(lines)), JSON)
        service = Forwarding(to(Backend.to_connect(name)), STRICT, access_log=log)
        work = serving(service, handed)
        peer.send_data(b"request")
        peer.close_notify()
        plain, _ = listener.accept()
        with plain:
            assert recv_exactly(plain, 99) == b"request"
            plain.sendall(b"answer")
        assert peer.recv_data(6) == b"answer"
        assert peer.recv() == CLOSE_NOTIFY
        work.result()
    told = json.loads(lines.read_text())
    found = {key: told[key] for key in ("backend", "received", "sent", "end", "carrier")}
    assert found == {
        "backend": name,
        "received": 7,
        "sent": 6,
        "end": "clean",
        "carrier": handed.offload.value,
    }


@both
@pytest.mark.parametrize("version", ["1", "2"])
def test_header(lab: Lab, policy: KtlsPolicy, version: str) -> None:
    """A PROXY header stands in front of the data, and says who the client is."""
    handed, peer = lab.server(policy)
    with listening(("127.0.0.1", 0)) as listener:
        backends = to(Backend(*listener.getsockname()))
        address = peer.sock.getpeername()
        work = serving(Forwarding(backends, STRICT, proxy_version=version), handed)
        peer.send_data(b"request")
        peer.close_notify()
        plain, _ = listener.accept()
        with plain:
            received = recv_exactly(plain, 2**12)
        if version == "1":
            size = received.index(b"\n") + 1
            header = proxy_text.decode(received[:size])
        else:
            header, size = decode(received)
            told, _ = ConnectionInfo.decode(received)
            assert told.version == "TLSv1.3"
        assert header.peer == peer.sock.getsockname()
        assert header.local == address
        assert received[size:] == b"request"
        work.result()


def expect_cut(peer: RawPeer, sent: bytes = b"") -> None:
    """See the end of a connection as it is for nobody who was served: without close_notify."""
    with suppress(ConnectionResetError):
        assert peer.recv_data(len(sent)) == sent
        assert peer.recv() is None


@both
@pytest.mark.parametrize("request_", [b"", os.urandom(1000)], ids=["silent", "request"])
def test_nobody_there(lab: Lab, policy: KtlsPolicy, request_: bytes) -> None:
    """The client is cut off at once, for that is certain, and may not take it for an answer."""
    before, counted = descriptors(), counters()["backend_failed"]
    handed, peer = lab.server(policy)
    if request_:
        peer.send_data(request_)
    work = serving(Forwarding(to(Backend("127.0.0.1", free_port()), timeout=3600), STRICT), handed)
    expect_cut(peer)
    with pytest.raises(BackendError, match="ECONNREFUSED"):
        work.result()
    assert counters()["backend_failed"] == counted + 1
    peer.sock.close()
    check_descriptors(before)


@both
def test_backend_that_does_not_answer(lab: Lab, policy: KtlsPolicy) -> None:
    """What may pass is waited for, and then the client is cut off likewise."""
    handed, peer = lab.server(policy)
    with listening(("127.0.0.1", 0), 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            backends = to(Backend(*address), timeout=SHORT)
            work = serving(Forwarding(backends, STRICT), handed)
            expect_cut(peer)
            with pytest.raises(BackendError, match="it does not answer"):
                work.result()


@both
def test_stopped_while_it_connects(lab: Lab, policy: KtlsPolicy) -> None:
    """Where the time to drain is over before there is a backend the client is cut off as well."""
    before = descriptors()
    handed, peer = lab.server(policy)

    async def serve(backend: Backend) -> None:
        async with asyncio.timeout(0.05):
            await Forwarding(to(backend), STRICT).serve(handed)

    with listening(("127.0.0.1", 0), 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address), pytest.raises(TimeoutError):
            asyncio.run(serve(Backend(*address)))
    assert handed.sock.fileno() == -1
    expect_cut(peer)
    peer.sock.close()
    check_descriptors(before)


def test_out_of_descriptors(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is left for the backend the client is cut off as well."""
    handed, peer = lab.server(RELAY)

    async def connect(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Backend, "connect", connect)
    work = serving(Forwarding(to(Backend("127.0.0.1", 1), timeout=SHORT), STRICT), handed)
    expect_cut(peer)
    with pytest.raises(BackendError, match="EMFILE"):
        work.result()


def test_out_of_descriptors_for_a_pair(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none is left to lend a connection by, likewise."""
    handed, peer = lab.server(RELAY)

    def socketpair(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def work() -> None:
        monkeypatch.setattr(socket, "socketpair", socketpair)  # the loop has its own by now
        await Passing(to(Backend(path=str(tmp_path / "nobody"))), STRICT).serve(handed)

    attempt = Endpoint(lambda: asyncio.run(work()))
    expect_cut(peer)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        attempt.result()


def test_client_gone_meanwhile(lab: Lab, tmp_path: Path) -> None:
    """Who does not wait for a backend leaves nothing behind."""
    before = descriptors()
    handed, peer = lab.server(RELAY)
    service = Forwarding(to(Backend(path=str(tmp_path / "none")), timeout=SHORT), STRICT)
    work = serving(service, handed)
    reset(peer.sock)
    with pytest.raises(BackendError):
        work.result()
    check_descriptors(before)


# -- descriptors to workers


@pytest.mark.each_kernel
@both
def test_descriptor_for_any_program(lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """It reads and writes, knows nothing of TLS, and closes; its client gets a close_notify."""
    before, counted = descriptors(), counters()["descriptor_passed"]
    handed, peer = lab.server(policy)
    path = str(tmp_path / "socket")
    with listening(path) as listener:
        work = serving(Passing(to(Backend(path=path)), STRICT), handed)
        sock, told = receive(listener)
    assert told.peer == peer.sock.getsockname()
    assert told.offload is (Offload.RELAY if policy is RELAY else Offload.KERNEL)
    peer.send_data(b"request")
    peer.close_notify()
    with sock:
        assert recv_exactly(sock, 99) == b"request"
        sock.sendall(b"answer")
    assert peer.recv_data(6) == b"answer"
    assert peer.recv() == CLOSE_NOTIFY
    work.result()
    assert counters()["descriptor_passed"] == counted + 1
    peer.sock.close()
    check_descriptors(before)


@pytest.mark.each_kernel
@pytest.mark.ktls
def test_connection_itself(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An aware worker has it for itself; here no secret of it is left."""
    handed, peer = lab.server(KERNEL)
    sent: list[bytes | bytearray] = []
    send = scm_rights.send

    def note(channel: socket.socket, message: bytes, descriptor: int) -> None:
        sent.append(message)
        send(channel, message, descriptor)

    monkeypatch.setattr(scm_rights, "send", note)
    with Receiver(tmp_path / "socket") as receiver:
        backends = to(Backend(path=str(tmp_path / "socket")))
        work = serving(Passing(backends, STRICT, aware=True), handed)
        stream, told = receiver.accept()
    work.result()
    assert sent
    assert not any(sent[0])
    assert (stream.offload, told.offload) == (Offload.KERNEL, Offload.KERNEL)
    with stream:
        assert stream.gettimeout() is None
        peer.send_data(b"request")
        assert stream.recv(99) == b"request"
        stream.sendall(b"answer")
    assert peer.recv_data(6) == b"answer"
    assert peer.recv() == CLOSE_NOTIFY


def test_aware_worker_on_the_relay_path(lab: Lab, tmp_path: Path) -> None:
    """It gets the end of a pair, and the reason along with it."""
    handed, peer = lab.server(RELAY)
    with Receiver(tmp_path / "socket") as receiver:
        backends = to(Backend(path=str(tmp_path / "socket")))
        work = serving(Passing(backends, STRICT, aware=True), handed)
        stream, told = receiver.accept()
    assert (told.offload, told.reason) == (Offload.RELAY, "policy-off")
    with stream:
        stream.sendall(b"hello")
        assert peer.recv_data(5) == b"hello"
    assert peer.recv() == CLOSE_NOTIFY
    peer.close_notify()
    work.result()


AWARE = (
    pytest.param(RELAY, False, id="relay"),
    pytest.param(KERNEL, False, id="kernel", marks=pytest.mark.ktls),
    pytest.param(KERNEL, True, id="aware", marks=pytest.mark.ktls),
)
each_way = pytest.mark.parametrize(("policy", "aware"), AWARE)


def _refuse(listener: socket.socket, answer: bytes = b"") -> None:
    """Accept, take nothing, and perhaps say so."""
    with listener.accept()[0] as channel:
        if answer:
            socket.recv_fds(channel, 2**18, 0)
            channel.send(answer)


@each_way
def test_refused(lab: Lab, policy: KtlsPolicy, tmp_path: Path, *, aware: bool) -> None:
    """A worker that takes nothing is asked again; in the end the client is cut off."""
    before = descriptors()
    handed, peer = lab.server(policy)
    peer.send_data(b"request")
    path = str(tmp_path / "socket")
    with listening(path) as listener:
        backends = to(Backend(path=path), timeout=SHORT, retry=2.0)  # long enough for two
        work = serving(Passing(backends, STRICT, aware=aware), handed)
        _refuse(listener)
        _refuse(listener, b"no")
    expect_cut(peer)
    with pytest.raises(BackendError, match="took no connection"):
        work.result()
    peer.sock.close()
    check_descriptors(before)


@each_way
def test_worker_dies_with_a_queue(
    lab: Lab, policy: KtlsPolicy, tmp_path: Path, *, aware: bool
) -> None:
    """What it had not received the next one gets."""
    handed, peer = lab.server(policy)
    path = str(tmp_path / "socket")
    with listening(path):
        service = Passing(to(Backend(path=path), retry=60), STRICT, aware=aware)
        work = serving(service, handed)
        until(lambda: _queue(path))
    os.unlink(path)
    with Receiver(path) as receiver:
        stream, _ = receiver.accept()
    with stream:
        stream.sendall(b"hello")
        assert peer.recv_data(5) == b"hello"
    assert peer.recv() == CLOSE_NOTIFY
    with suppress(OSError):  # what the receiver has closed may be gone by now
        peer.close_notify()
    work.result()


def _queue(path: str) -> bool:
    """Return whether somebody has connected to a path: the kernel lists two sockets there."""
    with open("/proc/net/unix") as table:
        return sum(line.endswith(f" {path}\n") for line in table) > 1


@each_way
def test_worker_that_hangs(lab: Lab, policy: KtlsPolicy, tmp_path: Path, *, aware: bool) -> None:
    """Who may find the connection later is not given company: it finds that it has ended."""
    handed, peer = lab.server(policy)
    slow, other = str(tmp_path / "slow"), str(tmp_path / "other")
    with listening(slow) as listener, listening(other, 1) as spare:
        backends = to(Backend(path=slow), Backend(path=other), timeout=0.2)
        work = serving(Passing(backends, STRICT, aware=aware), handed)
        expect_cut(peer)
        with pytest.raises(BackendError, match="did not take a connection in time"):
            work.result()
        sock, _ = receive(listener)
        with sock:
            assert sock.recv(1) == b""
            if not aware:  # to a kernel connection that has ended sends succeed, and go nowhere
                with pytest.raises(OSError, match=r"Broken pipe|reset"):
                    sock.sendall(bytes(2**20))
        spare.settimeout(0)
        with pytest.raises(BlockingIOError):
            spare.accept()


@each_way
def test_worker_that_comes_too_late(
    lab: Lab, policy: KtlsPolicy, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, aware: bool
) -> None:
    """It is not given what has ended, and goes on with the next; nothing was taken from it."""
    before = descriptors()
    handed, peer = lab.server(policy)
    other, other_peer = lab.server(policy)
    peer.send_data(b"POST order")
    with Receiver(tmp_path / "late") as receiver:
        where = Backend(path=str(tmp_path / "late"))
        work = serving(Passing(to(where, timeout=0.2), STRICT, aware=aware), handed)
        expect_cut(peer)
        with pytest.raises(BackendError, match="in time"):
            work.result()
        work = serving(Passing(to(where, timeout=60), STRICT, aware=aware), other)
        stream, _ = receiver.accept()
        with stream:
            stream.sendall(b"hello")
            assert other_peer.recv_data(5) == b"hello"
            other_peer.close_notify()
            assert stream.recv(1) == b""
        work.result()
    assert "it came too late" in caplog.text
    for sock in (peer.sock, other_peer.sock):
        sock.close()
    check_descriptors(before)


@each_way
def test_late_worker_without_a_library(
    lab: Lab, policy: KtlsPolicy, tmp_path: Path, *, aware: bool
) -> None:
    """It finds the request, if the connection itself was sent, then an end; it never waits."""
    handed, peer = lab.server(policy)
    peer.send_data(b"POST order")
    path = str(tmp_path / "late")
    with listening(path) as listener:
        work = serving(Passing(to(Backend(path=path), timeout=0.2), STRICT, aware=aware), handed)
        expect_cut(peer)
        with pytest.raises(BackendError, match="in time"):
            work.result()
        sock, _ = receive(listener)
        with sock:
            assert recv_exactly(sock, 99) == (b"POST order" if aware else b"")
            poller = select.poll()
            poller.register(sock, 0)
            assert poller.poll(0)[0][1] & select.POLLHUP


@each_way
def test_worker_that_confirms_too_late(
    lab: Lab, policy: KtlsPolicy, tmp_path: Path, *, aware: bool
) -> None:
    """It has answered, and hangs before it says so: its client sees no good end of the answer."""
    handed, peer = lab.server(policy)
    path = str(tmp_path / "slow")
    peer.send_data(b"request")
    with listening(path) as listener:
        work = serving(Passing(to(Backend(path=path), timeout=SHORT), STRICT, aware=aware), handed)
        with listener.accept()[0] as channel:
            message, numbers, _, _ = socket.recv_fds(channel, 2**18, 1)
            _, size = ConnectionInfo.decode(message)
            sock = socket.socket(fileno=numbers[0])
            sock.settimeout(60)
            with TLSSocket(adopt(sock, message[size:])) if aware else sock as stream:
                with suppress(OSError):
                    stream.sendall(b"good")
                expect_cut(peer, b"good" if aware else b"")
                with pytest.raises(BackendError, match="in time"):
                    work.result()
                if aware:
                    assert stream.recv(99) == b"request"
                    with pytest.raises(Truncated):
                        stream.recv(99)
                else:
                    with pytest.raises(OSError, match=r"Broken pipe|reset"):
                        stream.sendall(bytes(2**20))


def test_full_queue(lab: Lab, tmp_path: Path) -> None:
    """A worker that is slow gets its next connection when there is room for it."""
    path = str(tmp_path / "socket")
    pairs = [lab.server(RELAY) for _ in range(4)]

    async def serve() -> None:
        service = Passing(to(Backend(path=path), timeout=60), STRICT)
        await asyncio.gather(*(service.serve(handed) for handed, _ in pairs))

    with listening(path, 0) as listener:
        work = Endpoint(lambda: asyncio.run(serve()))
        until(lambda: _queue(path))
        for _ in pairs:
            receive(listener)[0].close()
    for _, peer in pairs:
        assert peer.recv() == CLOSE_NOTIFY
        peer.close_notify()
    work.result()


@each_way
def test_cancelled_in_the_queue(
    lab: Lab, policy: KtlsPolicy, tmp_path: Path, *, aware: bool
) -> None:
    """Where the time to drain is over the connection is cut, and nothing stays open."""
    before = descriptors()
    handed, peer = lab.server(policy)
    path = str(tmp_path / "socket")

    async def serve() -> None:
        async with asyncio.timeout(0.05):
            await Passing(to(Backend(path=path)), STRICT, aware=aware).serve(handed)

    with listening(path):
        with pytest.raises(TimeoutError):
            asyncio.run(serve())
        assert handed.sock.fileno() == -1
        expect_cut(peer)
    peer.sock.close()
    check_descriptors(before)


# -- connections that are still


@contextmanager
def forwarded(
    lab: Lab, policy: KtlsPolicy, bounds: Bounds
) -> Iterator[tuple[RawPeer, socket.socket, Endpoint[None]]]:
    """Return a client, its backend, and what is between them."""
    handed, peer = lab.server(policy)
    with listening(("127.0.0.1", 0)) as listener:
        backends = to(Backend(*listener.getsockname()))
        work = serving(Forwarding(backends, STRICT, bounds), handed)
        plain, _ = listener.accept()
        plain.settimeout(60)
        with plain:
            yield peer, plain, work


@both
def test_idle(lab: Lab, policy: KtlsPolicy) -> None:
    """Both sides are told in good order, and may end likewise."""
    before = counters()["idle_ended"]
    with forwarded(lab, policy, Bounds(idle=0.5)) as (peer, backend, work):
        peer.send_data(b"request")
        assert recv_exactly(backend, 7) == b"request"
        assert peer.recv() == CLOSE_NOTIFY
        assert backend.recv(1) == b""
        peer.close_notify()
        backend.close()
        work.result()
    assert counters()["idle_ended"] == before + 1


@both
def test_idle_and_nobody_heeds_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy
) -> None:
    """A moment later the connection is over all the same, without an error; nothing stays open."""
    monkeypatch.setattr(watching, "_PARTING", 0.01)
    before = descriptors()
    with forwarded(lab, policy, Bounds(idle=0.2)) as (peer, _, work):
        assert peer.recv() == CLOSE_NOTIFY
        work.result()
    peer.sock.close()
    check_descriptors(before)


@both
@pytest.mark.parametrize("size", [2**30, 2**20], ids=["waits", "closes"])
def test_client_that_takes_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy, size: int
) -> None:
    """It is cut off, whether its backend waits for it or has closed, and nothing stays open."""
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    before, counted = descriptors(), counters()["send_timed_out"]
    with forwarded(lab, policy, Bounds(send=0.2)) as (peer, backend, work):
        sending = Endpoint(lambda: _send_and_close(backend, size))
        with pytest.raises(TimeoutError, match="read nothing of the sent data"):
            work.result()
        assert counters()["send_timed_out"] == counted + 1
        until(lambda: not _relays())
        sending.result()
    left = size
    with suppress(OSError, PeerMisbehaved):  # half of a record may be the last
        while (record := peer.recv()) is not None:
            assert record != CLOSE_NOTIFY or not left
            left -= len(record[1])
    peer.sock.close()
    check_descriptors(before)


def _send_and_close(sock: socket.socket, size: int) -> None:
    with suppress(OSError), sock:
        for _ in range(0, size, 2**16):
            sock.sendall(bytes(2**16))


def _relays() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "tlsify-relay"]


@both
def test_client_that_does_not_end(lab: Lab, policy: KtlsPolicy) -> None:
    """It has got all, and nothing is to come: it is not waited for for ever."""
    before = counters()["idle_ended"]
    with forwarded(lab, policy, Bounds(send=0.1)) as (peer, backend, work):
        backend.sendall(b"answer")
        backend.close()
        work.result()
        assert peer.recv_data(6) == b"answer"
        assert peer.recv() == CLOSE_NOTIFY
    assert counters()["idle_ended"] == before + 1


@both
def test_client_that_has_vanished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, policy: KtlsPolicy
) -> None:
    """TCP notices it where nothing is sent, and its backend is told of a cut."""
    for name in ("IDLE", "INTERVAL", "COUNT"):
        monkeypatch.setattr(keepalive, name, 1)
    before = descriptors()
    with forwarded(lab, policy, Bounds()) as (peer, backend, work):
        peer.send_data(b"x")  # which acknowledges whatever we have sent
        assert recv_exactly(backend, 1)
        vanish(peer.sock)
        with pytest.raises(ConnectionResetError):
            backend.recv(1)
        with pytest.raises(TimeoutError):
            work.result()
    peer.sock.close()
    check_descriptors(before)
