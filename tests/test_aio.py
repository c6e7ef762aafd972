"""Tests of aio."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, KERNEL, OFFLOADS, RELAY, Endpoint, Lab, RawPeer, reset
from tlsify.aio import Acceptor, LoopSocket, hand_over
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.errors import DeadlineExceeded, PeerMisbehaved
from tlsify.handoff import Offload
from tlsify.ktls.probe import capabilities
from tlsify.opening import accept
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy, ServerConfig

both = pytest.mark.parametrize("policy", OFFLOADS)
CLIENTS = 50


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """Python's own TLS, as a client."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


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


@asynccontextmanager
async def serving(
    config: ServerConfig, policy: KtlsPolicy, file: Path | None = None, *, handshakes: int = 1000
) -> AsyncIterator[Server]:
    """Serve on a port of 127.0.0.1."""
    protocols: list[Echo] = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    server = Server(listener.getsockname(), protocols)

    def make() -> Echo:
        protocols.append(Echo(file))
        server.connected.set()
        return protocols[-1]

    async with Acceptor(listener, make, config, policy, handshakes=handshakes):
        yield server
    assert listener.fileno() == -1
    for protocol in protocols:
        if protocol._transport is not None:
            protocol._transport.abort()
            await protocol.ended


async def raw_peer(lab: Lab, server: Server) -> RawPeer:
    """Connect a peer made by hand."""

    def connect() -> RawPeer:
        sock = socket.create_connection(server.address, timeout=20)
        lab._peers.append(sock)
        return RawPeer(sock, lab.configs()[0])

    return await asyncio.to_thread(connect)


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
    config = dataclasses.replace(server_config, timeout=0.5 if policy is RELAY else 3)

    async def run() -> None:
        async with serving(config, policy) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"\x16\x03\x01")
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
    config = dataclasses.replace(server_config, timeout=0.2)

    async def run() -> None:
        async with serving(config, RELAY, handshakes=1) as server:
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*server.address)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
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


@both
def test_truncation_is_an_end(lab: Lab, policy: KtlsPolicy) -> None:
    """A FIN without close_notify ends the transport as one with it: HTTP has its own framing."""

    async def run() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            await asyncio.to_thread(peer.send_data, b"data")
            assert await asyncio.to_thread(peer.recv_data, 4) == b"data"
            peer.sock.shutdown(socket.SHUT_WR)
            assert await server.protocols[0].ended is None
            assert await asyncio.to_thread(peer.recv) in {CLOSE_NOTIFY, None}

    asyncio.run(run())


@both
@pytest.mark.parametrize("fault", ["flipped bit", "error alert", "plaintext"])
def test_fault_of_the_peer(
    lab: Lab, policy: KtlsPolicy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The protocol sees a connection error, and nobody is told of a bug."""
    caplog.set_level(logging.WARNING)

    async def run() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            if fault == "flipped bit":
                record = bytearray(peer.data(b"data"))
                record[-1] ^= 1
                peer.sock.sendall(record)
            elif fault == "error alert":
                peer.send_alert(AlertDescription.internal_error)
            else:
                peer.sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await server.connected.wait()
            assert isinstance(await server.protocols[0].ended, ConnectionError)

    asyncio.run(run())
    assert not caplog.records


@pytest.mark.ktls
def test_key_update_behind_data(lab: Lab) -> None:
    """A KeyUpdate in the segment of the data is served, though poll may hide it."""

    async def run() -> None:
        async with serving(lab.configs()[1], KERNEL) as server:
            peer = await raw_peer(lab, server)
            update = KeyUpdateRequest.update_not_requested
            peer.sock.sendall(peer.data(b"data") + peer.key_update(update))
            async with asyncio.timeout(10):
                await server.connected.wait()
                protocol = server.protocols[0]
                if not capabilities().rekey:
                    assert isinstance(await protocol.ended, ConnectionError)
                    alert = await asyncio.to_thread(peer.recv_alert)
                    assert alert is AlertDescription.internal_error
                    return
                await asyncio.to_thread(peer.send_data, b"later")
                assert await asyncio.to_thread(peer.recv_data, 9) == b"datalater"
                await asyncio.to_thread(peer.close_notify)
                assert await protocol.ended is None

    asyncio.run(run())


@both
def test_close_notify_behind_data(lab: Lab, policy: KtlsPolicy) -> None:
    """The end of the stream is seen at once, though the peer keeps the TCP connection open."""

    async def run() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            peer.sock.sendall(peer.data(b"data") + peer.seal(*CLOSE_NOTIFY))
            assert await asyncio.to_thread(peer.recv_data, 4) == b"data"
            async with asyncio.timeout(10):
                assert await server.protocols[0].ended is None
            assert await asyncio.to_thread(peer.recv) == CLOSE_NOTIFY

    asyncio.run(run())


@both
def test_control_records_between_data(lab: Lab, policy: KtlsPolicy) -> None:
    """A user_canceled alert reaches no protocol."""

    async def run() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            for message in (b"one", b"two"):
                peer.send_alert(AlertDescription.user_canceled, 1)
                peer.send(ContentType.application_data, message)
                assert await asyncio.to_thread(peer.recv_data, 3) == message

    asyncio.run(run())


@both
def test_hand_over_of_a_client(lab: Lab, policy: KtlsPolicy) -> None:
    """``hand_over`` does the client's side as well, and gives a socket that never waits."""

    async def run() -> None:
        ours, theirs = lab.tcp()
        client, server = lab.configs()
        other = Endpoint(lambda: accept(theirs, server, policy))
        handed = lab.keep(await hand_over(ours, client, policy))
        peer = lab.keep(other.result())
        stream = LoopSocket(handed)
        stream.settimeout(0)
        assert stream.offload is (Offload.RELAY if policy is RELAY else Offload.KERNEL)
        await asyncio.get_running_loop().sock_sendall(stream, b"hello")
        assert peer.sock.recv(9) == b"hello"
        stream.close()

    asyncio.run(run())


def test_hand_over_in_time(lab: Lab) -> None:
    """The deadline is tlsify's error, and closes the socket."""

    async def run() -> None:
        ours, _theirs = lab.tcp()
        client = dataclasses.replace(lab.configs()[0], timeout=0.05)
        with pytest.raises(DeadlineExceeded):
            await hand_over(ours, client, RELAY)
        assert ours.fileno() == -1

    asyncio.run(run())


def test_refused_peer_gets_its_alert(lab: Lab) -> None:
    """Unread bytes behind a bad hello do not reset the alert away."""

    async def run() -> None:
        ours, theirs = lab.tcp()
        theirs.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(10000))
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerMisbehaved):
            await hand_over(ours, lab.configs()[1], RELAY)
        assert theirs.recv(100)[0] == ContentType.alert
        assert theirs.recv(100) == b""

    asyncio.run(run())


@pytest.mark.parametrize("into", [False, True])
def test_receiving_raises_os_errors_only(lab: Lab, *, into: bool) -> None:
    """A transport can deal with nothing else."""
    handoff, peer = lab.server(RELAY)
    stream = LoopSocket(handoff)
    stream.settimeout(10)
    receive: Callable[[], object] = (
        (lambda: stream.recv_into(bytearray(9))) if into else (lambda: stream.recv(9))
    )
    peer.send_alert(AlertDescription.internal_error)
    with pytest.raises(ConnectionAbortedError, match="internal_error"):
        receive()
    other, peer = lab.server(RELAY)
    stream = LoopSocket(other)
    stream.settimeout(10)
    peer.sock.shutdown(socket.SHUT_WR)
    assert receive() in {0, b""}
