"""Tests of the acceptor."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import resource
import socket
import ssl
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.conftest import issue
from tests.doubles import (
    OFFLOADS,
    RELAY,
    Lab,
    backlog,
    check_descriptors,
    descriptors,
    reset,
)
from tests.want import Want
from tlsify.acme.board import Board
from tlsify.aio import pending
from tlsify.aio.acceptor import Acceptor
from tlsify.aio.inline_socket import PIECE
from tlsify.aio.limits import Limits
from tlsify.aio.transport import attach
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.credentials.parse import encoded
from tlsify.logs.messages import NOTICE, peer
from tlsify.logs.text import spell_address
from tlsify.metrics.counters import Event, Gauge, counters, gauge, handshake_times
from tlsify.passing import proxy_protocol
from tlsify.passing.proxies import Proxies
from tlsify.passing.proxy_protocol import Header
from tlsify.tls.challenge import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.connection.handoff import Handoff
from tlsify.connection.exit import CarrierThread
from tlsify.connection.relay.inline import InlineRelay

both = pytest.mark.parametrize("policy", OFFLOADS)
CLIENTS = 50
_PROXY_EVENTS = (Event.REFUSED_PER_ADDRESS, Event.HANDSHAKE_PROXY_HEADER)


class Echo(asyncio.Protocol):
    """Sends back what comes; "file" is answered with a file, by sendfile."""

    def __init__(self, file: Path | None = None) -> None:
        """Keep the file's path."""
        self._file = file
        self._transport: asyncio.Transport | None = None
        self._sending: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        assert self._transport is not None
        if data == b"file":
            self._sending = asyncio.create_task(self._send_file(self._transport))
        else:
            self._transport.write(data)

    async def _send_file(self, transport: asyncio.Transport) -> None:
        assert self._file is not None
        with self._file.open("rb") as file:
            # Not to fall back: a copying loop would hide that sendfile does not work.
            await asyncio.get_running_loop().sendfile(transport, file, fallback=False)
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep how it ended."""
        self.ended.set_result(exc)


class Server:
    """An acceptor and the protocols that it has made."""

    def __init__(self, address: tuple[str, int], protocols: list[Echo]) -> None:
        """Keep both."""
        self.address = address
        self.protocols = protocols
        self.connected = asyncio.Event()
        self.acceptor: Acceptor


@asynccontextmanager
async def serving(
    config: ServerConfig,
    policy: KtlsPolicy,
    file: Path | None = None,
    *,
    limits: Limits | None = None,
    known: list[object] | None = None,
) -> AsyncIterator[Server]:
    """Serve on a port of 127.0.0.1; each client is known by an address."""
    protocols: list[Echo] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    server = Server(listener.getsockname(), protocols)

    def make() -> Echo:
        protocols.append(Echo(file))
        server.connected.set()
        return protocols[-1]

    async def serve(handed: Handoff) -> None:
        if known is not None:
            known.append(peer.get())
        await attach(make, handed)

    async with Acceptor([listener], serve, config, policy, limits or Limits()) as acceptor:
        server.acceptor = acceptor
        yield server
    assert listener.fileno() == -1
    assert acceptor.connections == 0
    for protocol in protocols:
        if protocol._transport is not None:
            await protocol.ended


async def converse(server: Server, context: ssl.SSLContext, message: bytes) -> bytes:
    """Send a message and read to the end of the stream or to the same length."""
    reader, writer = await asyncio.open_connection(
        *server.address, ssl=context, server_hostname="example.org"
    )
    writer.write(message)
    answer = await (reader.read() if message == b"file" else reader.readexactly(len(message)))
    writer.close()
    await writer.wait_closed()
    return answer


@both
def test_echo(
    lab: Lab, policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """A protocol sees plaintext only, and the transport ends in good order."""

    async def run() -> None:
        async with serving(server_config, policy) as server:
            assert await converse(server, client_context, b"hello") == b"hello"
            assert await server.protocols[0].ended is None

    del lab
    asyncio.run(run())


@both
def test_acme_challenge(
    policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """The authority sees the challenge and a clean end; nothing is served, and others are."""
    board = Board()
    board.publish({"example.org": bytes(32)}, {})
    config = dataclasses.replace(server_config, acme_challenge=board.tls)
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    asking.set_alpn_protocols([PROTOCOL.decode()])

    async def run() -> None:
        async with serving(config, policy) as server:
            before = counters()[Event.HANDSHAKE_ACME_CHALLENGE.value]
            reader, writer = await asyncio.open_connection(
                *server.address, ssl=asking, server_hostname="example.org"
            )
            shown = board.tls("example.org")
            assert shown is not None
            found = writer.get_extra_info("ssl_object")
            assert found.selected_alpn_protocol() == PROTOCOL.decode()
            assert found.getpeercert(binary_form=True) == encoded(shown.key_pair.chain[0])
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            assert not server.protocols
            assert counters()[Event.HANDSHAKE_ACME_CHALLENGE.value] - before == 1
            assert await converse(server, client_context, b"hello") == b"hello"

    asyncio.run(run())


@both
def test_sendfile(
    policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    """loop.sendfile works natively, and the file ends with close_notify."""
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 1500)

    async def run() -> None:
        async with serving(server_config, policy, file) as server:
            assert await converse(server, client_context, b"file") == file.read_bytes()

    asyncio.run(run())


@both
def test_many_clients_at_once(
    policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """Each of many clients gets its own answer."""
    count = CLIENTS if policy is RELAY else CLIENTS // 5

    async def run() -> None:
        async with serving(server_config, policy) as server:
            messages = [b"client %d" % number for number in range(count)]
            talks = (converse(server, client_context, message) for message in messages)
            assert await asyncio.gather(*talks) == messages

    asyncio.run(run())


@both
def test_stalled_client(
    policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """Its handshake ends at the deadline; meanwhile others are served."""
    hasty = dataclasses.replace(server_config, timeout=0.2)

    async def run() -> None:
        async with serving(hasty, policy) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"\x16\x03\x01")
            await come_true(lambda: server.acceptor.connections)
            await asyncio.sleep(0)  # it is under way
            server.acceptor.reload(server_config)  # for all others, who may take their time
            assert await converse(server, client_context, b"hello") == b"hello"
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            assert len(server.protocols) == 1

    asyncio.run(run())


@both
def test_garbage_client(
    policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """It gets an alert and the end of the stream; a connection already open goes on."""

    async def run() -> None:
        async with serving(server_config, policy) as server:
            first_reader, first_writer = await asyncio.open_connection(
                *server.address, ssl=client_context, server_hostname="example.org"
            )
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            alert = bytes([2, AlertDescription.unexpected_message])
            assert await reader.read() == b"\x15\x03\x03\x00\x02" + alert
            writer.close()
            await writer.wait_closed()
            first_writer.write(b"still here")
            assert await first_reader.readexactly(10) == b"still here"
            first_writer.close()
            await first_writer.wait_closed()

    asyncio.run(run())


def test_client_of_another_protocol(server_config: ServerConfig) -> None:
    """It is answered in its own way, if there is an answer, and not once it has spoken TLS."""
    heard: list[bytes] = []
    ends: list[str] = []

    def answer(received: bytes) -> bytes:
        heard.append(received)
        return b"no" if received.startswith(b"hello") else b""

    async def say(server: Server, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(sent)
        received = await reader.read()
        await leave(writer)
        return received

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            server.acceptor.stranger = answer
            server.acceptor.refused = lambda _, end, *__: ends.append(end)
            assert await say(server, b"hello there") == b"no"
            assert (await say(server, b"others"))[:1] == b"\x15"
            assert (await say(server, b"\x16\x03\x01\x00\x01\x01hello"))[:1] == b"\x15"

    asyncio.run(run())
    assert heard == [b"hello there", b"others"]
    assert ends == ["plain_http", "peer_misbehaved", "peer_misbehaved"]


@both
def test_client_that_vanishes(
    policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """A reset in the middle of the handshake disturbs nobody."""

    async def run() -> None:
        async with serving(server_config, policy) as server:
            for _ in range(3):
                sock = socket.create_connection(server.address)
                sock.sendall(b"\x16\x03\x01\x02\x00\x01")
                reset(sock)
            assert await converse(server, client_context, b"hello") == b"hello"

    asyncio.run(run())


def test_places_for_handshakes(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """A place is free again once its handshake has ended, well or badly."""
    hasty = dataclasses.replace(server_config, timeout=0.05)

    async def run() -> None:
        async with serving(server_config, RELAY, limits=Limits(handshakes=1)) as server:
            for _ in range(2):
                server.acceptor.reload(hasty)
                reader, writer = await asyncio.open_connection(*server.address)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
                server.acceptor.reload(server_config)
                assert await converse(server, client_context, b"hello") == b"hello"

    asyncio.run(run())


def test_end_during_handshakes(server_config: ServerConfig) -> None:
    """Leaving the block gives up what is under way, and closes its sockets."""

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"\x16")
            await writer.drain()
            # Its handshake has begun when a second client's has ended.
            other_reader, other_writer = await asyncio.open_connection(*server.address)
            other_writer.write(b"GET /")
            await other_reader.read()
            other_writer.close()
            await other_writer.wait_closed()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    asyncio.run(run())


# -- limits


def counted(event: Event) -> int:
    """Return how often something has happened in this process."""
    return counters()[event.value]


async def stalled(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and say too little."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"\x16\x03\x01")
    return reader, writer


async def leave(*writers: asyncio.StreamWriter) -> None:
    """Close connections."""
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def come_true(condition: Callable[[], object]) -> None:
    """Wait, while the loop runs, for something that nothing can be waited on for."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.0005)


async def accepted(server: Server, number: int) -> None:
    """Wait until so many are there."""
    await come_true(lambda: server.acceptor.connections == number)


def test_stalled_handshakes_make_room(
    server_config: ServerConfig, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all places are taken by who says nothing, a newcomer gets the place of the oldest."""
    monkeypatch.setattr(pending, "_SILENCE", 0.05)
    before = counted(Event.HANDSHAKE_EVICTED)

    async def run() -> None:
        async with serving(server_config, RELAY, limits=Limits(handshakes=3)) as server:
            peers = [await stalled(server) for _ in range(3)]
            await accepted(server, 3)
            assert await converse(server, client_context, b"hello") == b"hello"
            assert await peers[0][0].read() == b"", "the oldest was let go"
            assert counted(Event.HANDSHAKE_EVICTED) == before + 1
            assert counted(Event.FULL_OF_HANDSHAKES) > 0
            assert gauge(Gauge.HANDSHAKES) == 2
            await leave(*(writer for _, writer in peers))

    asyncio.run(run())
    assert gauge(Gauge.HANDSHAKES) == 0


def test_no_more_connections_than_allowed(
    server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """One more waits until another ends, and is served then."""

    async def run() -> None:
        async with serving(server_config, RELAY, limits=Limits(connections=1)) as server:
            reader, writer = await asyncio.open_connection(
                *server.address, ssl=client_context, server_hostname="example.org"
            )
            writer.write(b"first")
            assert await reader.readexactly(5) == b"first"
            assert gauge(Gauge.CONNECTIONS) == 1
            waiting = asyncio.create_task(converse(server, client_context, b"second"))
            before = counted(Event.FULL_OF_CONNECTIONS)
            await come_true(lambda: counted(Event.FULL_OF_CONNECTIONS) > before)
            assert not waiting.done()
            await leave(writer)
            assert await waiting == b"second"

    asyncio.run(run())


def test_full_after_a_failure(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """Where descriptors ran out and then places did, an end makes room all the same."""

    async def run() -> None:
        async with serving(server_config, RELAY, limits=Limits(connections=1)) as server:
            reader, writer = await asyncio.open_connection(
                *server.address, ssl=client_context, server_hostname="example.org"
            )
            writer.write(b"first")
            assert await reader.readexactly(5) == b"first"
            server.acceptor._is_failing = True
            before = counted(Event.FULL_OF_CONNECTIONS)
            waiting = asyncio.create_task(converse(server, client_context, b"second"))
            await come_true(lambda: counted(Event.FULL_OF_CONNECTIONS) > before)
            await leave(writer)
            assert await waiting == b"second"

    asyncio.run(run())


@pytest.mark.parametrize("limits", [Limits(connections=1), Limits()])
def test_stalled_handshake_in_the_place_of_a_connection(
    server_config: ServerConfig,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    limits: Limits,
) -> None:
    """It makes room where connections are as many as may be, here or in the whole process."""
    monkeypatch.setattr(pending, "_SILENCE", 0.05)

    async def run() -> None:
        async with serving(server_config, RELAY, limits=limits) as server:
            acceptor = server.acceptor
            if limits.connections is None:
                acceptor.is_crowded = lambda: acceptor.connections >= 1
            reader, writer = await stalled(server)
            await accepted(server, 1)
            assert await converse(server, client_context, b"hello") == b"hello"
            assert await reader.read() == b""
            await leave(writer)

    asyncio.run(run())


def test_limit_for_an_address(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """Its connections beyond that are closed; others' are not, and an end makes room."""

    async def run() -> None:
        before = counted(Event.REFUSED_PER_ADDRESS)
        refusals: list[tuple[object, str, object, float]] = []
        async with serving(server_config, RELAY, limits=Limits(per_address=1)) as server:
            _, first = await stalled(server)
            await accepted(server, 1)
            server.acceptor.refused = lambda *found: refusals.append(found)
            reader, second = await stalled(server)
            newcomer = second.get_extra_info("sockname")
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert counted(Event.REFUSED_PER_ADDRESS) == before + 1
            assert [found[:2] for found in refusals] == [(newcomer, "per_address")]
            elsewhere, third = await asyncio.open_connection(
                *server.address,
                local_addr=("127.0.0.2", 0),
                ssl=client_context,
                server_hostname="example.org",
            )
            third.write(b"hello")
            assert await elsewhere.readexactly(5) == b"hello"
            await leave(first, second)
            await accepted(server, 1)
            assert await converse(server, client_context, b"hello") == b"hello"
            await leave(third)

    asyncio.run(run())


@both
def test_clients_behind_a_proxy(
    server_config: ServerConfig, client_context: ssl.SSLContext, policy: KtlsPolicy
) -> None:
    """They count, and are known, by what its headers tell; it is not limited itself."""
    known: list[object] = []
    refusals: list[tuple[object, str, object, float]] = []

    async def run() -> None:
        limits = Limits(per_address=1)
        async with serving(server_config, policy, limits=limits, known=known) as server:
            server.acceptor.proxies = Proxies.parse("127.0.0.1")
            server.acceptor.refused = lambda *found: refusals.append(found)

            async def come(
                header: bytes, source: str = "127.0.0.1"
            ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                sock = socket.create_connection(server.address, source_address=(source, 0))
                sock.sendall(header)
                return await asyncio.open_connection(
                    sock=sock, ssl=client_context, server_hostname="example.org"
                )

            writers = []
            for source, header in (
                (1, b"PROXY TCP4 192.0.2.1 198.51.100.2 7 443\r\n"),
                (1, proxy_protocol.encode(Header(("192.0.2.2", 8), ("198.51.100.2", 443)))),
                (1, b"PROXY UNKNOWN\r\n"),
                (1, b"PROXY UNKNOWN\r\n"),
                (2, b""),
            ):
                reader, writer = await come(header, f"127.0.0.{source}")
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writers.append(writer)
            assert known[:2] == [("192.0.2.1", 7), ("192.0.2.2", 8)]
            others = [spell_address(name).partition(":")[0] for name in known[2:]]
            assert others == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
            before = {event: counted(event) for event in _PROXY_EVENTS}
            for header in (b"PROXY TCP4 192.0.2.1 198.51.100.2 9 443\r\n", b"", b"PROXY X"):
                with pytest.raises((ConnectionError, ssl.SSLError)):
                    await come(header)
            for writer in writers:
                await leave(writer)
            assert {event: counted(event) - before[event] for event in _PROXY_EVENTS} == {
                Event.REFUSED_PER_ADDRESS: 1,
                Event.HANDSHAKE_PROXY_HEADER: 2,
            }
            assert refusals[0][:2] == (("192.0.2.1", 9), "per_address")
            assert [each[1] for each in refusals[1:]] == ["proxy_header"] * 2
            assert gauge(Gauge.HANDSHAKES) == 0

    asyncio.run(run())


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """Take all descriptors of this process, as long as the block lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(number) for number in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def no_relay() -> bool:
    """Return whether no thread is left of the relays of earlier tests."""
    return not any(isinstance(each, CarrierThread) for each in threading.enumerate())


def test_no_descriptor_left(
    server_config: ServerConfig, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Who connects meanwhile waits, in no time of ours, and is served once there are some again."""

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            await come_true(no_relay)
            before = counted(Event.ACCEPT_FAILED)
            sock = socket.socket()
            sock.setblocking(False)
            with no_descriptor():
                await asyncio.get_running_loop().sock_connect(sock, server.address)
                await come_true(lambda: counted(Event.ACCEPT_FAILED) >= before + 3)
                assert counted(Event.ACCEPT_FAILED) < before + 10, "it spins"
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=client_context, server_hostname="example.org"
            )
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            await leave(writer)

    asyncio.run(run())
    said = [record.message for record in caplog.records if "accept() failed" in record.message]
    assert len(said) == 1, "it says so once"


def test_stalled_handshakes_give_up_descriptors(
    server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """Where there are no others, the oldest from where most come are closed for a newcomer."""

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            await come_true(no_relay)
            peers = [await stalled(server) for _ in range(20)]
            await accepted(server, 20)
            before = counted(Event.HANDSHAKE_EVICTED)
            with socket.socket() as sock:
                sock.setblocking(False)
                with no_descriptor():
                    await asyncio.get_running_loop().sock_connect(sock, server.address)
                    reader, writer = await asyncio.open_connection(
                        sock=sock, ssl=client_context, server_hostname="example.org"
                    )
                    writer.write(b"hello")
                    assert await reader.readexactly(5) == b"hello"
                assert 0 < counted(Event.HANDSHAKE_EVICTED) - before < 20
                assert await peers[0][0].read() == b"", "the oldest was let go"
                await leave(writer, *(each for _, each in peers))

    asyncio.run(run())


def test_no_thread_for_a_relay(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """A client waits in the listening socket, without a handshake, until there is a thread."""

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            await come_true(no_relay)
            before = counted(Event.ACCEPT_FAILED)
            with Want("thread", 0):
                asking = asyncio.create_task(converse(server, client_context, b"hello"))
                await come_true(lambda: counted(Event.ACCEPT_FAILED) >= before + 2)
                assert backlog(server.address[1]) == 1
                assert server.acceptor.connections == 0
            assert await asking == b"hello"
        await come_true(no_relay)

    asyncio.run(run())


def test_thread_for_the_rest(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """Records that a client has yet to take arrive behind a close, though no thread can start."""
    sent = 0

    async def serve(handed: Handoff) -> None:
        nonlocal sent
        assert isinstance(handed.sock, InlineRelay)
        with Want("thread", 0):
            while handed.sock.flush():
                handed.sock.put(memoryview(bytes(PIECE)))
                sent += PIECE
            handed.close()

    async def run() -> None:
        await come_true(no_relay)
        acceptor = Acceptor([socket.create_server(("127.0.0.1", 0))], serve, server_config, RELAY)
        acceptor.is_inline = acceptor.keeps_thread = True
        async with acceptor:
            (listener,) = acceptor._listeners
            reader, writer = await asyncio.open_connection(
                *listener.getsockname(), ssl=client_context, server_hostname="example.org"
            )
            assert await reader.read() == bytes(sent)
            writer.close()
        await come_true(no_relay)

    asyncio.run(run())


def test_no_memory_to_begin_with(
    server_config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acceptor that cannot begin leaves neither a listening socket nor a thread."""

    def lack(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    async def run() -> None:
        await come_true(no_relay)
        listener = socket.create_server(("127.0.0.1", 0))
        acceptor = Acceptor([listener], lack, server_config, RELAY)  # type: ignore[arg-type]
        acceptor.keeps_thread = True
        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", lack)
        with pytest.raises(OSError, match="no memory"):
            acceptor.begin()
        assert listener.fileno() == -1
        await come_true(no_relay)

    asyncio.run(run())


# -- how handshakes end


@pytest.mark.parametrize(
    ("sent", "event", "told", "level"),
    [
        pytest.param(
            b"GET / HTTP/1.0\r\n\r\n",
            Event.HANDSHAKE_MISBEHAVED,
            "peer_misbehaved",
            NOTICE,
            id="no-tls",
        ),
        pytest.param(
            b"\x15\x03\x03\x00\x02\x02\x28",
            Event.HANDSHAKE_PEER_ALERT,
            "peer_alert",
            NOTICE,
            id="alert",
        ),
        pytest.param(b"\x16", Event.HANDSHAKE_TRUNCATED, "truncated", logging.INFO, id="cut"),
    ],
)
def test_what_is_told(
    server_config: ServerConfig,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    event: Event,
    told: str,
    level: int,
) -> None:
    """Each way to fail has its own number and name; the client is named, too."""
    caplog.set_level(logging.INFO)
    peers: list[object] = []

    def note_peer(_: logging.LogRecord) -> bool:
        peers.append(peer.get(None))
        return True

    caplog.handler.addFilter(note_peer)
    before = counted(event)
    refusals: list[tuple[object, str, object, float]] = []

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            server.acceptor.refused = lambda *found: refusals.append(found)
            reader, writer = await asyncio.open_connection(*server.address)
            address = writer.get_extra_info("sockname")
            writer.write(sent)
            writer.write_eof()
            await reader.read()
            await leave(writer)
            await accepted(server, 0)
            ((name, end, error, seconds),) = refusals
            assert (name, end) == (address, told)
            assert str(error) in caplog.messages[-1]
            assert 0 <= seconds < 60
            assert (peers[-1], caplog.records[-1].levelno) == (address, level)

    asyncio.run(run())
    assert counted(event) == before + 1


@pytest.mark.parametrize("told", ["peer_alert", "truncated"])
def test_name_that_a_refused_client_asks_for(server_config: ServerConfig, told: str) -> None:
    """It is known once the hello has been read, however the handshake fails then."""
    hello = ssl.MemoryBIO()
    distrustful = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        distrustful.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="shop.example").do_handshake()
    names: list[tuple[str, str | None]] = []

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            server.acceptor.refused = lambda _, end, error, __: names.append(
                (end, getattr(error, "server_name", None))
            )
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(hello.read())
            await reader.readexactly(1)
            if told == "peer_alert":
                writer.write(bytes((ContentType.alert, 3, 3, 0, 2, 2, AlertDescription.unknown_ca)))
            else:
                writer.write_eof()
            await reader.read()
            await leave(writer)
            await accepted(server, 0)

    asyncio.run(run())
    assert names == [(told, "shop.example")]


def test_times_are_counted(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """A handshake that went well is counted with the time it took, and as what it became."""
    before, events = handshake_times(), counters()

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            await converse(server, client_context, b"hello")

    asyncio.run(run())
    times = handshake_times()
    assert times.counts[-1] == before.counts[-1] + 1
    assert 0 < times.seconds - before.seconds < 10
    for event in (Event.ACCEPTED, Event.HANDSHAKE_OK, Event.RELAYED):
        assert counted(event) == events[event.value] + 1


@both
@pytest.mark.parametrize(
    ("cut", "event"),
    [
        pytest.param(reset, Event.BROKEN, id="reset"),
        pytest.param(lambda sock: sock.close(), Event.TRUNCATED, id="truncated"),
    ],
)
def test_cuts_are_counted(
    policy: KtlsPolicy,
    server_config: ServerConfig,
    client_context: ssl.SSLContext,
    cut: Callable[[socket.socket], None],
    event: Event,
) -> None:
    """A connection that was cut is, once, whoever carries it."""
    kinds = (Event.BROKEN, Event.TRUNCATED)
    before = {each: counted(each) for each in kinds}

    def begin(address: tuple[str, int]) -> socket.socket:
        sock = socket.create_connection(address, timeout=60)
        stream = client_context.wrap_socket(sock, server_hostname="example.org")
        stream.sendall(b"x")
        assert stream.recv(1) == b"x"
        return socket.socket(fileno=stream.detach())

    async def run() -> None:
        async with serving(server_config, policy) as server:
            cut(await asyncio.to_thread(begin, server.address))
            await accepted(server, 0)
            assert await converse(server, client_context, b"in order") == b"in order"

    asyncio.run(run())
    assert {each: counted(each) - before[each] for each in kinds} == {
        each: int(each is event) for each in kinds
    }


# -- the end


def test_drain(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """Nobody is accepted any more; handshakes and connections come to their end."""

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            reader, writer = await asyncio.open_connection(
                *server.address, ssl=client_context, server_hostname="example.org"
            )
            late = socket.create_connection(server.address)
            late.setblocking(False)
            await accepted(server, 2)
            draining = asyncio.create_task(server.acceptor.drain(None))
            await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(server.address)
            late_reader, late_writer = await asyncio.open_connection(
                sock=late, ssl=client_context, server_hostname="example.org"
            )
            for each in (writer, late_writer):
                each.write(b"still")
            assert await reader.readexactly(5) == b"still"
            assert await late_reader.readexactly(5) == b"still"
            assert not draining.done()
            await leave(writer, late_writer)
            await draining

    asyncio.run(run())


def test_drain_takes_who_has_connected(
    server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """Where nobody else would, those that wait in the listening socket are served as well."""

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            waiting = [socket.create_connection(server.address) for _ in range(3)]
            draining = asyncio.create_task(server.acceptor.drain(None, sweep=True))
            for sock in waiting:
                reader, writer = await asyncio.open_connection(
                    sock=sock, ssl=client_context, server_hostname="example.org"
                )
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                await leave(writer)
            await draining

    asyncio.run(run())


def test_drain_does_not_wait_for_who_has_stalled(
    server_config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handshake that does not get on is given up long before its own deadline."""
    monkeypatch.setattr(pending, "_SILENCE", 0.05)

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            peers = [await stalled(server) for _ in range(2)]
            await accepted(server, 2)
            async with asyncio.timeout(5):
                await server.acceptor.drain(None)
            for reader, writer in peers:
                assert await reader.read() == b""
                await leave(writer)

    asyncio.run(run())


def test_end_of_patience(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """What has not ended in time is cut off, with close_notify, and counted."""
    before = counted(Event.DRAIN_CUT)

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            reader, writer = await asyncio.open_connection(
                *server.address, ssl=client_context, server_hostname="example.org"
            )
            _, other = await stalled(server)
            await accepted(server, 2)
            await server.connected.wait()
            await server.acceptor.drain(0.05)
            assert await reader.read() == b""
            await leave(writer, other)

    asyncio.run(run())
    assert counted(Event.DRAIN_CUT) == before + 1


def test_end_before_the_first_step(server_config: ServerConfig) -> None:
    """A connection accepted in the very turn of the end leaves no socket."""
    before = descriptors()

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            with socket.create_connection(server.address):
                server.acceptor._accept(server.acceptor._listeners[0])
                await server.acceptor.drain(0)

    asyncio.run(run())
    check_descriptors(before)


def test_other_configuration(
    lab: Lab, server_config: ServerConfig, client_context: ssl.SSLContext, authority: trustme.CA
) -> None:
    """Handshakes that begin after a reload are another certificate's."""
    del lab
    other = dataclasses.replace(server_config, key_pair=issue(authority, "example.org"))

    async def serial(server: Server) -> str:
        _, writer = await asyncio.open_connection(
            *server.address, ssl=client_context, server_hostname="example.org"
        )
        found = writer.get_extra_info("peercert")["serialNumber"]
        await leave(writer)
        return str(found)

    async def run() -> None:
        async with serving(server_config, RELAY) as server:
            first = await serial(server)
            assert await serial(server) == first
            server.acceptor.reload(other)
            assert await serial(server) != first

    asyncio.run(run())


def test_bug_in_what_serves(
    server_config: ServerConfig, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the connection is closed in good order, and others are served."""

    async def run() -> None:
        async def serve(_: Handoff) -> None:
            raise RuntimeError("planted")

        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        async with Acceptor([listener], serve, server_config, RELAY):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(
                    *address, ssl=client_context, server_hostname="example.org"
                )
                assert await reader.read() == b""
                await leave(writer)

    asyncio.run(run())
    assert [record.message for record in caplog.records] == ["bug in a connection"] * 2


def test_several_listeners(server_config: ServerConfig, client_context: ssl.SSLContext) -> None:
    """All of them are served, IPv6 as well."""

    async def run() -> None:
        listeners = [
            socket.create_server(("127.0.0.1", 0)),
            socket.create_server(("::1", 0), family=socket.AF_INET6),
        ]
        addresses = [listener.getsockname()[:2] for listener in listeners]

        async def serve(handed: Handoff) -> None:
            await attach(Echo, handed)

        async with Acceptor(listeners, serve, server_config, RELAY):
            for address in addresses:
                server = Server(address, [])
                assert await converse(server, client_context, b"hello") == b"hello"

    asyncio.run(run())
