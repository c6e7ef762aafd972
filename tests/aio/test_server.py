"""Tests of server: asyncio's own functions and Server, on either kind of loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.aio.peers import Echo
from tests.doubles import OFFLOADS, RELAY
from tlsify import aio
from tlsify.aio.limits import Limits
from tlsify.config import ClosePolicy
from tlsify.errors import ConfigError
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

    from tlsify.config import ClientConfig, KtlsPolicy, ServerConfig

    Run = Callable[[Any], Any]

both = pytest.mark.parametrize("policy", OFFLOADS)
HERE = "127.0.0.1"


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a line, in capitals."""
    writer.write((await reader.readline()).upper())
    writer.close()
    await writer.wait_closed()


async def ask(server: aio.Server, config: ClientConfig, policy: KtlsPolicy = RELAY) -> bytes:
    """Send a line, and give the answer."""
    reader, writer = await aio.open_connection(
        *server.sockets[0].getsockname(), config=config, policy=policy
    )
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@both
def test_streams(
    run: Run, policy: KtlsPolicy, server_config: ServerConfig, client_config: ClientConfig
) -> None:
    """A callback with streams serves many clients at a time, each its own."""

    async def work() -> None:
        async with await aio.start_server(
            shout, HERE, 0, config=server_config, policy=policy
        ) as server:
            assert server.is_serving()
            assert server.get_loop() is asyncio.get_running_loop()
            asked = (ask(server, client_config, policy) for _ in range(10))
            assert await asyncio.gather(*asked) == [b"HELLO\n"] * 10
        assert not server.is_serving()
        assert server.sockets == ()

    run(work())


@both
def test_half_closed_streams(
    run: Run, policy: KtlsPolicy, server_config: ServerConfig, client_config: ClientConfig
) -> None:
    """A client that ends its direction still gets its answer, however late that is."""

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read()
        await asyncio.sleep(0.01)
        writer.write(request.upper() * 100_000)
        writer.close()
        await writer.wait_closed()

    async def work() -> None:
        async with await aio.start_server(
            late, HERE, 0, config=server_config, policy=policy
        ) as server:
            reader, writer = await aio.open_connection(
                *server.sockets[0].getsockname(), config=client_config, policy=policy
            )
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"HELLO" * 100_000
            writer.close()
            await writer.wait_closed()

    run(work())


def test_from_an_ssl_context(run: Run, authority: trustme.CA, tmp_path: Path) -> None:
    """The context says what the configuration says otherwise, and the transport shows it."""
    leaf = authority.issue_cert("example.org")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pair.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = SSLContext.for_server(
        tmp_path / "pair.pem", cafile=tmp_path / "ca.pem", alpn=("h2",), policy=RELAY
    )
    client = SSLContext.for_client(cafile=tmp_path / "ca.pem", alpn=("h2",), policy=RELAY)
    made: list[Echo] = []

    def make() -> Echo:
        made.append(Echo())
        return made[-1]

    async def work() -> None:
        async with await aio.create_server(make, HERE, 0, ssl=context) as server:
            address = server.sockets[0].getsockname()
            transport, protocol = await aio.create_connection(
                Echo, *address, ssl=client, server_hostname="example.org"
            )
            assert isinstance(protocol, Echo)
            ask = transport.get_extra_info
            assert ask("sslcontext") is client
            assert ask("ssl_object").selected_alpn_protocol() == "h2"
            assert ("DNS", "example.org") in ask("peercert")["subjectAltName"]
            transport.close()
            await protocol.ended
            await server.acceptor.drain(None)
            assert made[0].transport.get_extra_info("sslcontext") is context

    run(work())


def test_life(run: Run, server_config: ServerConfig, client_config: ClientConfig) -> None:
    """Serving begins when it is told to; close ends it at once, and connections go on."""

    async def work() -> None:
        server = await aio.create_server(Echo, HERE, 0, config=server_config, start_serving=False)
        address = server.sockets[0].getsockname()
        assert not server.is_serving()
        with socket.socket() as probe:
            assert probe.connect_ex(address)
        await server.start_serving()
        await server.start_serving()
        reader, writer = await aio.open_connection(*address, config=client_config, policy=RELAY)
        server.close()
        server.close()
        with socket.socket() as probe:
            assert probe.connect_ex(address)
        waiting = asyncio.create_task(server.wait_closed())
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert not waiting.done()
        writer.close()
        await writer.wait_closed()
        await waiting
        with pytest.raises(RuntimeError, match="is closed"):
            await server.start_serving()

    run(work())


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_serve_forever(run: Run, server_config: ServerConfig, how: str) -> None:
    """It lasts until it is cancelled, or the server is closed."""

    async def work() -> None:
        server = await aio.create_server(Echo, HERE, 0, config=server_config, start_serving=False)
        task = asyncio.create_task(server.serve_forever())
        for _ in range(5):
            await asyncio.sleep(0)
        assert server.is_serving()
        with pytest.raises(RuntimeError, match="already"):
            await server.serve_forever()
        if how == "cancel":
            task.cancel()
        else:
            server.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()

    run(work())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_clients_sent_away(
    run: Run, server_config: ServerConfig, client_config: ClientConfig, how: str
) -> None:
    """All of them, in good order or at once."""

    async def work() -> None:
        async with await aio.create_server(Echo, HERE, 0, config=server_config) as server:
            address = server.sockets[0].getsockname()
            streams = [await aio.open_connection(*address, config=client_config) for _ in range(3)]
            for reader, writer in streams:
                writer.write(b"hello")
                await reader.readexactly(5)
            getattr(server, how)()
            for reader, writer in streams:
                assert await reader.read() == b""
                writer.close()

    run(work())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients", "drain"])
def test_what_clients_are_told(
    run: Run, server_config: ServerConfig, client_config: ClientConfig, how: str
) -> None:
    """Only who is sent away in good order sees an end; a connection that is given up is cut."""

    async def work() -> None:
        async with await aio.create_server(Echo, HERE, 0, config=server_config) as server:
            address = server.sockets[0].getsockname()
            reader, writer = await aio.open_connection(
                *address, config=client_config, closing=ClosePolicy.STRICT
            )
            writer.write(b"hello")
            await reader.readexactly(5)
            if how == "drain":
                await server.acceptor.drain(0)
            else:
                getattr(server, how)()
            if how == "close_clients":
                assert await reader.read() == b""
            else:
                with pytest.raises(ConnectionAbortedError, match="without close_notify"):
                    await reader.read()
            writer.close()

    run(work())


def test_stalled_client(run: Run, server_config: ServerConfig, client_config: ClientConfig) -> None:
    """Its handshake ends at the server's deadline; meanwhile others are served."""

    async def work() -> None:
        async with await aio.start_server(
            shout, HERE, 0, config=server_config, timeout=0.2, limits=Limits(handshakes=50)
        ) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"\x16\x03\x01")
            while not server.acceptor.connections:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)  # it is under way
            server.acceptor.reload(server_config)  # for all others, who may take their time
            assert await ask(server, client_config) == b"HELLO\n"
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            assert server.acceptor.connections == 0

    run(work())


def test_where_to_listen(run: Run, server_config: ServerConfig) -> None:
    """Several hosts, or a socket of the caller's own, which the server closes."""

    async def work() -> None:
        async with await aio.create_server(
            Echo, [HERE, "127.0.0.2"], 0, config=server_config, backlog=5, reuse_port=True
        ) as server:
            hosts = {sock.getsockname()[0] for sock in server.sockets}
            assert hosts == {HERE, "127.0.0.2"}
            assert HERE in repr(server)
        sock = socket.create_server((HERE, 0))
        server = await aio.create_server(Echo, sock=sock, config=server_config)
        assert server.sockets[0].getsockname() == sock.getsockname()
        server.close()
        await server.wait_closed()
        assert sock.fileno() == -1
        with socket.create_server((HERE, 0)) as taken, pytest.raises(OSError, match="in use"):
            await aio.create_server(Echo, *taken.getsockname(), config=server_config)

    run(work())


def test_several_hosts(run: Run, server_config: ServerConfig, client_config: ClientConfig) -> None:
    """Each has a socket, on which clients are served."""

    async def work() -> None:
        async with await aio.start_server(
            shout, [HERE, "127.0.0.2", "::1"], 0, config=server_config
        ) as server:
            assert len(server.sockets) == 3
            for sock in server.sockets:
                reader, writer = await aio.open_connection(
                    *sock.getsockname()[:2], config=client_config, policy=RELAY
                )
                writer.write(b"hello\n")
                assert await reader.read() == b"HELLO\n"
                writer.close()
                await writer.wait_closed()

    run(work())


def test_arguments(run: Run, server_config: ServerConfig) -> None:
    """What contradicts itself is refused before anybody listens."""
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def work() -> None:
        for arguments in (
            {},
            {"config": server_config, "ssl": context},
            {"ssl": context},  # without a certificate
            {"config": server_config, "sock": socket.socket(), "port": 0},
        ):
            given: Any = arguments
            with pytest.raises(ConfigError):
                await aio.create_server(Echo, **given)
            if "sock" in given:
                given["sock"].close()

    run(work())
