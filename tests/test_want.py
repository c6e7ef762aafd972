"""A moment of want: whichever call finds nothing left, nothing is wedged, the next one works."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import tlsify
import tlsify.aio
from tests.agent.harness import Files, serving, tcp
from tests.doubles import (
    CLOSE_NOTIFY,
    OFFLOADS,
    RELAY,
    Endpoint,
    HalfRecord,
    Lab,
    RawPeer,
    check_descriptors,
    descriptors,
    until,
)
from tests.want import KINDS, Want
from tlsify import TLSSocket, agent
from tlsify.agent.config_cache import Configs
from tlsify.agent.listener import Listener
from tlsify.agent.server import Worker
from tlsify.codepoints import ContentType
from tlsify.config import ClientConfig, KtlsPolicy
from tlsify.connection import event_thread
from tlsify.connection.relay.verdict import Verdict
from tlsify.errors import ExitCode, TlsifyError
from tlsify.metrics.counters import counters
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

    from tlsify.config import ServerConfig
    from tlsify.credentials.key_pair import KeyPair

QUESTION, BLOCK = b"question", bytes(2**14)
CARRIERS = {"tlsify-relay", "tlsify-linger"}
both = pytest.mark.parametrize("policy", OFFLOADS)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody waits for more, and nothing may be left to the garbage collector."""
    monkeypatch.setattr(event_thread, "_IDLE", 0.0)
    gc.disable()
    yield
    gc.enable()


def _forget() -> None:
    """Make the next connection take everything that a process's first one takes."""
    until(lambda: not _carriers())
    Verdict._free.clear()


def _carriers() -> int:
    return sum(thread.name in CARRIERS for thread in threading.enumerate())


class Seen(NamedTuple):
    """What a peer has seen of its connection.

    Attributes:
        received: bytes of data.
        end: of the stream, which has come: "close_notify", "alert", "cut" or "reset"; or "refused",
            if there was no handshake.
    """

    received: int
    end: str


def _be_peer(
    sock: socket.socket, config: ClientConfig | ServerConfig, gate: threading.Event
) -> Seen:
    """Ask, wait until the gate opens, and read to the end, which has to come."""
    with sock:
        try:
            peer = RawPeer(sock, config)
        except (TlsifyError, ConnectionError, AssertionError):  # that is how it says so, too
            return Seen(0, "refused")
        with contextlib.suppress(ConnectionError):
            peer.send_data(QUESTION)
        gate.wait(60)
        received, end = 0, "cut"
        try:
            while (record := peer.recv()) is not None:
                if record[0] == ContentType.application_data:
                    received += len(record[1])
                else:
                    end = "close_notify" if record == CLOSE_NOTIFY else "alert"
        except ConnectionError:
            end = "reset"
        except HalfRecord:  # kernels drop what they have sent of a record in part
            end = "cut"
        with contextlib.suppress(OSError):
            peer.close_notify()
    return Seen(received, end)


def _is_named(error: Exception | None) -> bool:
    """Return whether an error is one line, and says what can be done about it."""
    if isinstance(error, TlsifyError):
        return bool(error.hint) and "\n" not in str(error) and "bug" not in error.hint
    return error is None or bool(isinstance(error, OSError) and error.errno)


# -- the library's own sockets


class Life(NamedTuple):
    """One connection, seen from both sides."""

    seen: Seen
    sent: int
    error: Exception | None


def _open(
    door: str, sock: socket.socket, config: ClientConfig | ServerConfig, policy: KtlsPolicy
) -> TLSSocket:
    """Do a handshake by one of the library's doors."""
    if door == "wrap_socket":
        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.policy = policy
        return context.wrap_socket(sock)
    if isinstance(config, ClientConfig):
        return TLSSocket(tlsify.connect(sock, config, policy))
    return TLSSocket(tlsify.accept(sock, config, policy))


def _live(lab: Lab, door: str, policy: KtlsPolicy, way: str) -> Life:
    """Answer a question with more than there is room for, and end before the peer reads it."""
    near, far = lab.tcp()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**15)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)
    client, server = lab.configs()
    gate, sent, error = threading.Event(), 0, None
    peer = Endpoint(lambda: _be_peer(far, client if door == "accept" else server, gate))
    try:
        with _open(door, near, server if door == "accept" else client, policy) as stream:
            assert stream.recv(100) == QUESTION
            stream.settimeout(0)
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                while True:
                    sent += stream.send(BLOCK)
            stream.settimeout(60)
            if way == "shutdown":
                stream.shutdown(socket.SHUT_WR)
                gate.set()
                assert stream.recv(1) == b""
    except (TlsifyError, OSError) as exc:
        error = exc.with_traceback(None)
        near.close()  # what was refused at once is the caller's
    finally:
        gate.set()
    return Life(peer.result(), sent, error)


# What a life takes; the rest of the kinds are never asked for.
OPTIONS = {"getsockopt", "setsockopt"}
RELAYED = {"epoll", "epoll_ctl", "eventfd", "socketpair", "mmap"}
TAKEN = {
    "relay": {"thread"} | RELAYED | OPTIONS,
    "kernel": {"thread", "epoll", "epoll_ctl", "eventfd"} | OPTIONS,
    "kernel, half-closed": {"thread", "epoll", "epoll_ctl", "eventfd", "dup"} | OPTIONS,
}


@both
@each_kind
@pytest.mark.parametrize("way", ["close", "shutdown"])
@pytest.mark.parametrize("door", ["accept", "connect", "wrap_socket"])
def test_sockets(lab: Lab, policy: KtlsPolicy, kind: str, way: str, door: str) -> None:
    """The peer sees an end, with all that was sent before; the caller a named error, or none."""
    is_relayed = policy is RELAY
    before, nth, has_failed = descriptors(), 0, True
    while has_failed:
        nth += 1
        _forget()
        with Want(kind, nth) as want:
            life = _live(lab, door, policy, way)
        has_failed = want.has_failed
        assert _is_named(life.error)
        is_whole = is_relayed or life.seen.end == "close_notify"
        assert life.seen.received == life.sent or (has_failed and not is_whole)
        # On the kernel path close_notify may have to wait, and nobody is there to do so.
        may_be_cut = has_failed and not is_relayed and kind in {"thread", "dup"}
        usual = {"close_notify", "cut"} if may_be_cut else {"close_notify"}
        if life.error is not None:
            usual = {"cut", "reset", "refused"} | ({"close_notify"} if way == "shutdown" else set())
        assert life.seen.end in usual
        assert life.error is None or has_failed
        again = _live(lab, door, policy, way)
        assert again == Life(Seen(again.sent, "close_notify"), again.sent, None)
    until(lambda: not _carriers())
    check_descriptors(before)
    name = "relay" if is_relayed else "kernel" if way == "close" else "kernel, half-closed"
    # Who gives a socket away has a copy in its place.
    taken = TAKEN[name] | ({"dup"} if door == "wrap_socket" else set())
    assert (nth > 1) is (kind in taken)


# -- a server on a loop

ANSWER = bytes(2**20)
COUNTED = ("handshake_resources", "handshake_ktls", "accept_failed", "shortage")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a question with much."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readexactly(len(QUESTION))
        writer.write(ANSWER)
        writer.close()
        await writer.wait_closed()


# asyncio's own transport is left half made where an option cannot be set.
@both
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OPTIONS])
def test_server_on_a_loop(
    lab: Lab, policy: KtlsPolicy, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that is not served sees an end, and is counted; the server goes on."""
    client, config = lab.configs()
    served = Seen(len(ANSWER), "close_notify")

    def ask(address: tuple[str, int]) -> Seen:
        gate = threading.Event()
        gate.set()
        return _be_peer(socket.create_connection(address, 60), client, gate)

    async def work() -> None:
        server = await tlsify.aio.start_server(_answer, "127.0.0.1", config=config, policy=policy)
        async with server:
            address = server.sockets[0].getsockname()
            assert await asyncio.to_thread(ask, address) == served
            before, nth, has_failed = descriptors(), 0, True
            while has_failed:
                nth += 1
                await asyncio.to_thread(_forget)
                counted = _counted()
                with Want(kind, nth) as want:
                    seen = await asyncio.to_thread(ask, address)
                has_failed = want.has_failed
                assert seen == served or (seen.received == 0 and seen.end != "close_notify")
                assert has_failed or seen == served
                if seen != served or (has_failed and kind == "accept"):
                    assert _counted() > counted
                assert await asyncio.to_thread(ask, address) == served
            await asyncio.to_thread(until, lambda: not _carriers())
            assert server._acceptor.connections == 0
            await asyncio.to_thread(check_descriptors, before)
            taken = {"thread", "socketpair", "mmap", "accept"} if policy is RELAY else {"accept"}
            assert nth > 1 or kind not in taken

    caplog.set_level(logging.INFO, "tlsify")
    asyncio.run(work())
    assert not any(record.exc_info for record in caplog.records)


def _counted() -> int:
    return sum(counters()[name] for name in COUNTED)


# -- an agent


class _Agent:
    """An agent in a child of this process, where there is no nth thing of a kind."""

    def __init__(self, folder: Path, configs: Configs, want: Want) -> None:
        """Fork it, and wait until it is ready, or has ended."""
        self.place = folder / "agent"
        listener = Listener(self.place)
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
            self._pid = os.fork()
        if not self._pid:
            self._serve(listener, configs, want, writer)
        for each in (writer, listener.sock.detach()):
            os.close(each)
        self.is_ready = bool(os.read(reader, 1))
        os.close(reader)
        self._idle = self._descriptors() if self.is_ready else 0

    @staticmethod
    def _serve(listener: Listener, configs: Configs, want: Want, writer: int) -> None:
        status = ExitCode.BUG

        def ready() -> None:
            os.write(writer, b"!")
            os.close(writer)

        try:
            with want:
                Worker(listener.sock, configs, 8).run(ready, listener.withdraw)
            status = ExitCode.OK
        except TlsifyError as exc:
            if _is_named(exc):
                status = exc.exit_code
        except OSError:
            status = ExitCode.SYSTEM
        finally:
            os._exit(status + 128 * want.has_failed)

    def _descriptors(self) -> int:
        return len(descriptors(self._pid))

    def end(self) -> tuple[int, bool]:
        """End it, once it is at rest; return its status, and whether something was lacking."""
        try:
            if self.is_ready:
                until(lambda: self._descriptors() <= self._idle)
                os.kill(self._pid, signal.SIGTERM)
            status = Endpoint(lambda: os.waitpid(self._pid, 0)[1]).result(20)
        except AssertionError:
            os.kill(self._pid, signal.SIGKILL)
            raise
        code = os.waitstatus_to_exitcode(status)
        return code % 128, code >= 128


def _converse(place: Path, files: Files, ktls: str) -> Exception | None:
    """Make a connection and use it; return the error, if there is one."""
    error: Exception | None = None
    with tcp() as (ours, theirs):
        peer = serving(files, theirs)
        try:
            with TLSSocket(agent.connect(place, ours, files.request(ktls=ktls))) as stream:
                stream.sendall(b"data")
                assert stream.recv(100) == b"DATA"
                stream.shutdown(socket.SHUT_WR)
                assert stream.recv(100) == b""
        except (TlsifyError, OSError) as exc:
            error = exc.with_traceback(None)
            ours.close()
        with contextlib.suppress(OSError):  # it has seen an end, whichever
            peer.result()
    return error


@pytest.mark.parametrize(
    "ktls",
    ["off", pytest.param("require", marks=[pytest.mark.ktls, pytest.mark.full_run])],
)
@each_kind
def test_agent(
    authority: trustme.CA, key_pair: KeyPair, tmp_path: Path, kind: str, ktls: str
) -> None:
    """A session fails at most; the next ones are served, and it can be ended."""
    files = Files.save(tmp_path, authority, key_pair)
    configs = Configs({}, alpn=(), resumption=False)
    configs.prepare(KtlsPolicy())
    nth, has_failed = 0, True
    with tempfile.TemporaryDirectory(prefix="tlsify-") as folder:
        while has_failed:
            nth += 1
            _forget()
            it = _Agent(Path(folder), configs, Want(kind, nth))
            try:
                if it.is_ready:
                    errors = [_converse(it.place, files, ktls) for _ in range(3)]
                    assert all(map(_is_named, errors))
                    assert errors.count(None) >= len(errors) - 1
            finally:
                status, has_failed = it.end()
            assert status == (ExitCode.OK if it.is_ready else ExitCode.SYSTEM)
    taken = {"thread", "accept", "open"} | OPTIONS | (RELAYED if ktls == "off" else set())
    assert (nth > 1) is (kind in taken)
