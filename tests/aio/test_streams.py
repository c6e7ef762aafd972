"""Tests of streams: connect, and go over to TLS, on either kind of loop."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.aio.peers import Echo
from tests.connection.setup.test_dialing import KINDS, Names, at, named
from tests.doubles import OFFLOADS, RELAY, Endpoint, Lab, RawPeer, descriptors, until
from tlsify import aio
from tlsify.config import ClientConfig, ClosePolicy
from tlsify.connection.establish import accept
from tlsify.connection.stream import TLSSocket
from tlsify.errors import ConfigError, DeadlineExceeded, IdentityError
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.credentials.anchors import TrustAnchors

    Run = Callable[[Any], Any]

__all__ = ["named"]

both = pytest.mark.parametrize("policy", OFFLOADS)
HERE = "127.0.0.1"


@both
def test_connection(
    run: Run, policy: KtlsPolicy, client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """By host and port, with what else asyncio's function takes; or on a socket that is there."""

    async def work() -> None:
        async with await aio.create_server(
            Echo, HERE, 0, config=server_config, policy=policy
        ) as server:
            address = server.sockets[0].getsockname()
            sock = socket.create_connection(address)
            ways: tuple[dict[str, Any], ...] = (
                {"host": address[0], "port": address[1], "local_addr": (HERE, 0)},
                {"host": address[0], "port": address[1], "happy_eyeballs_delay": None},
                {"host": address[0], "port": address[1], "family": socket.AF_INET},
                *(
                    [{"host": address[0], "port": address[1], "interleave": 1}]
                    if isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
                    else []
                ),
                {"sock": sock},
            )
            for way in ways:
                reader, writer = await aio.open_connection(
                    **way, config=client_config, policy=policy
                )
                assert writer.get_extra_info("peername") == address
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
                await writer.wait_closed()

    run(work())


def test_name_as_it_was_typed(run: Run, trust: TrustAnchors, server_config: ServerConfig) -> None:
    """An absolute name, or an address with its zone, is connected to and then compared without."""

    async def work() -> None:
        async with await aio.create_server(Echo, HERE, 0, config=server_config) as server:
            port = server.sockets[0].getsockname()[1]
            for host in ("localhost.", "LOCALHOST"):
                config = ClientConfig.for_host(host, trust=trust)
                _, writer = await aio.open_connection(host, port, config=config)
                assert writer.get_extra_info("handoff").negotiated.server_name == "localhost"
                writer.close()
                await writer.wait_closed()
            with pytest.raises(ConfigError):
                await aio.open_connection("https://localhost", port)

    run(work())


def test_what_is_looked_up(client_config: ClientConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name as is sent, in A-labels."""
    asked = []

    async def work() -> None:
        def look_up(host: str, *_: object, **__: object) -> list[Any]:
            asked.append(host)
            raise socket.gaierror

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        for host in ("Straße.example.", "fe80::1%lo", "192.0.2.1"):
            with suppress(OSError):
                await aio.open_connection(host, 1, config=client_config)

    asyncio.run(work())
    assert asked[0] == "xn--strae-oqa.example."


def test_who_is_expected(
    run: Run, client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """Without a word on it, the host; nobody is taken for another."""

    async def work() -> None:
        async with await aio.create_server(Echo, HERE, 0, config=server_config) as server:
            address = server.sockets[0].getsockname()
            with pytest.raises(IdentityError):
                await aio.open_connection(*address)  # which the system's store does not know
            other = dataclasses.replace(
                client_config, identities=(client_config.identities[0].for_host("example.net"),)
            )
            with pytest.raises(IdentityError):
                await aio.open_connection(*address, config=other)
            unverified = dataclasses.replace(client_config, verify=False)
            _, writer = await aio.open_connection(*address, config=unverified)
            assert writer.get_extra_info("peercert") == {}
            writer.close()
            await writer.wait_closed()

    run(work())


def test_nobody_there(run: Run, client_config: ClientConfig, server_config: ServerConfig) -> None:
    """A refused connection, a silent one, contradicting arguments: an error, and nothing left."""
    silent = dataclasses.replace(client_config, timeout=0.05)
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def work() -> None:
        with socket.create_server((HERE, 0)) as listener:
            address = listener.getsockname()
            for given in (silent, dataclasses.replace(silent, timeout=60)):
                with pytest.raises(DeadlineExceeded):
                    await aio.open_connection(*address, config=given, timeout=0.05)
            for arguments in (
                {"host": None, "port": 5},
                {"config": client_config, "ssl": context},
                {"config": client_config, "server_hostname": "example.org"},
            ):
                both: Any = {"host": HERE, "port": address[1]} | arguments
                with pytest.raises(ConfigError):
                    await aio.open_connection(**both)
        with pytest.raises(ConnectionRefusedError):
            await aio.open_connection(*address, config=client_config)
        assert server_config

    run(work())


@pytest.mark.parametrize("kinds", [["dead", "alive"], ["no-way", "refusing"]])
def test_name_with_dead_addresses(
    run: Run,
    named: Names,
    kinds: list[str],
    client_config: ClientConfig,
    server_config: ServerConfig,
) -> None:
    """They cost a moment on any loop; if all are dead the error is the one that says most."""

    async def work() -> None:
        async with await aio.create_server(Echo, HERE, 0, config=server_config) as server:
            with ExitStack() as stack:
                found = [stack.enter_context(KINDS[kind]()) for kind in kinds]
                if "alive" in kinds:
                    found[-1] = at(server.sockets[0].getsockname()[1])
                named.known["several.test"] = found
                opening = aio.open_connection("several.test", 1, config=client_config)
                if "alive" not in kinds:
                    with pytest.raises(ConnectionRefusedError):
                        await opening
                    return
                reader, writer = await opening
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
                await writer.wait_closed()

    run(work())


def sockets() -> set[str]:
    """List this process's open sockets."""
    return {entry for entry in descriptors() if "socket:" in entry}


def test_cancelled(run: Run, client_config: ClientConfig) -> None:
    """At any point on the way nothing is left open."""

    async def work() -> None:
        with socket.create_server((HERE, 0)) as listener:
            address = listener.getsockname()
            await asyncio.get_running_loop().getaddrinfo(*address)
            before = sockets()
            for rounds in range(12):
                task = asyncio.create_task(aio.open_connection(*address, config=client_config))
                for _ in range(rounds):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                for _ in range(3):
                    await asyncio.sleep(0)
                assert sockets() <= before

    run(work())


def _is_closed(sock: socket.socket) -> bool:
    return sock.fileno() == -1


@both
def test_strictness(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """A stream that ends without close_notify is an end, or an error for who wants it so."""

    async def work() -> None:
        for closing_policy in ClosePolicy:
            ours, theirs = lab.tcp()
            client, server = lab.configs()
            other = Endpoint(partial(RawPeer, theirs, server))
            reader, writer = await aio.open_connection(
                sock=ours, config=client, policy=policy, closing=closing_policy
            )
            other.result().sock.shutdown(socket.SHUT_WR)
            if closing_policy is ClosePolicy.RELAXED:
                assert await reader.read() == b""
            else:
                with pytest.raises(ConnectionAbortedError):
                    await reader.read()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            until(partial(_is_closed, ours))  # a relay has it until then

    run(work())


class Upgrading(asyncio.Protocol):
    """A server in plain text, which goes over to TLS when it is asked to."""

    def __init__(self, config: Any, policy: KtlsPolicy) -> None:
        """Keep what with."""
        self._config = config
        self._policy = policy
        self._task: asyncio.Task[None] | None = None
        self.transport: Any = None
        loop = asyncio.get_running_loop()
        self.upgraded: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Exception | None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, once."""
        assert self.transport is None
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer, and go over."""
        self.transport.write(data.upper())
        if data == b"starttls":
            self._task = asyncio.create_task(self._upgrade())

    async def _upgrade(self) -> None:
        self.transport.write(bytes(2_000_000))  # which takes its time
        try:
            self.transport = await aio.start_tls(
                self.transport, self, self._config, server_side=True, policy=self._policy
            )
        except Exception as exc:  # handed to whom it may concern
            self.upgraded.set_exception(exc)
            return
        self.upgraded.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep how it ended."""
        self.ended.set_result(exc)


async def listening(make: Any) -> tuple[asyncio.Server, list[Any], tuple[str, int]]:
    """Listen in plain text."""
    made: list[Any] = []

    def factory() -> Any:
        made.append(make())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(factory, HERE, 0)
    return server, made, server.sockets[0].getsockname()


@both
def test_start_tls_as_server(
    run: Run, policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """What was written before goes out first, in plain text; the rest is protected."""

    def visit(address: tuple[str, int]) -> None:
        with socket.create_connection(address, timeout=60) as sock:
            sock.sendall(b"starttls")
            received = sock.makefile("rb").read(8 + 2_000_000)
            assert received == b"STARTTLS" + bytes(2_000_000)
            with client_context.wrap_socket(sock, server_hostname="example.org") as tls:
                tls.sendall(b"hello")
                assert tls.recv(9) == b"HELLO"

    async def work() -> None:
        server, made, address = await listening(lambda: Upgrading(server_config, policy))
        await asyncio.to_thread(visit, address)
        await made[0].upgraded
        assert made[0].transport.get_extra_info("ktls")
        assert await made[0].ended is None
        server.close()
        await server.wait_closed()

    run(work())


def test_start_tls_with_a_bad_peer(run: Run, server_config: ServerConfig) -> None:
    """The caller gets the error, and the protocol is told that the connection is gone."""

    def visit(address: tuple[str, int]) -> None:
        with socket.create_connection(address, timeout=60) as sock:
            sock.sendall(b"starttls")
            sock.makefile("rb").read(8 + 2_000_000)
            sock.sendall(bytes(10))
            while sock.recv(100):
                pass

    async def work() -> None:
        server, made, address = await listening(lambda: Upgrading(server_config, RELAY))
        await asyncio.to_thread(visit, address)
        assert await made[0].ended is made[0].upgraded.exception()
        server.close()
        await server.wait_closed()

    run(work())


@both
def test_start_tls_as_client(
    run: Run, lab: Lab, policy: KtlsPolicy, client_config: ClientConfig
) -> None:
    """With streams made before, as StreamWriter.start_tls has it."""

    async def work() -> None:
        ours, theirs = lab.tcp()
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.sendall(b"ready\n")
        assert await reader.readline() == b"ready\n"
        other = Endpoint(lambda: TLSSocket(accept(theirs, lab.configs()[1], RELAY)))
        plain: Any = writer.transport
        protocol = plain.get_protocol()
        made = await aio.start_tls(plain, protocol, client_config, policy=policy)
        with closing(other.result()) as peer:
            made.write(b"hello")
            assert await asyncio.to_thread(peer.recv, 9) == b"hello"
            peer.sendall(b"answer\n")
            assert await reader.readline() == b"answer\n"
            # A reader that is full still stops its peer.
            sending = Endpoint(lambda: peer.sendall(bytes(20_000_000)))
            received = 0
            while received < 20_000_000:
                await asyncio.sleep(0)
                assert len(reader._buffer) < 2**20  # type: ignore[attr-defined]
                received += len(await reader.read(2**16))
            sending.result()
        made.close()
        await writer.wait_closed()
        until(lambda: theirs.fileno() == -1)

    run(work())


def test_start_tls_where_it_cannot_be(
    run: Run, lab: Lab, client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """On a connection that is TLS already, or closing; as two roles at once."""

    async def work() -> None:
        async with await aio.create_server(Echo, HERE, 0, config=server_config) as server:
            address = server.sockets[0].getsockname()
            transport, protocol = await aio.create_connection(Echo, *address, config=client_config)
            with pytest.raises(ConfigError, match="no plain"):
                await aio.start_tls(transport, protocol, client_config)
            transport.close()
            assert isinstance(protocol, Echo)
            await protocol.ended
        ours, theirs = lab.tcp()
        loop = asyncio.get_running_loop()
        plain, end = await loop.create_connection(Echo, sock=ours)
        with pytest.raises(ConfigError, match="requires a ServerConfig"):
            await aio.start_tls(plain, end, client_config, server_side=True)
        plain.close()
        with pytest.raises(ConfigError, match="closing"):
            await aio.start_tls(plain, end, client_config)
        await end.ended
        assert theirs.recv(1) == b""

    run(work())


def test_settings_of_another_kind(
    run: Run, client_config: ClientConfig, server_config: ServerConfig
) -> None:
    """They are refused before anything is opened: by what they are, and what they should be."""
    python = ssl.create_default_context()
    cases: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (
            aio.create_connection,
            {"ssl": python},
            "requires tlsify's SSLContext, not ssl.SSLContext",
        ),
        (aio.create_connection, {"ssl": True}, "requires tlsify's SSLContext, not builtins.bool"),
        (aio.create_connection, {"config": server_config}, "client requires a ClientConfig"),
        (aio.create_connection, {"config": python}, "client requires a ClientConfig, not SSLC"),
        (aio.create_server, {"ssl": python}, "requires tlsify's SSLContext"),
        (aio.create_server, {"config": client_config}, "server requires a ServerConfig"),
    )

    async def work() -> None:
        for function, options, said in cases:
            with pytest.raises(ConfigError, match=said):
                await function(Echo, HERE, 1, **options)

    run(work())


def test_start_tls_on_a_connection_that_breaks(
    run: Run, lab: Lab, client_config: ClientConfig
) -> None:
    """While what was written before cannot get out."""

    async def work() -> None:
        ours, theirs = lab.tcp()
        plain, protocol = await asyncio.get_running_loop().create_connection(Echo, sock=ours)
        plain.write(bytes(20_000_000))
        task = asyncio.create_task(aio.start_tls(plain, protocol, client_config))
        await asyncio.sleep(0.01)
        theirs.close()
        with pytest.raises(ConnectionError):
            await task
        assert isinstance(await protocol.ended, ConnectionError)

    run(work())


def test_from_an_ssl_context(run: Run, authority: trustme.CA, tmp_path: Path) -> None:
    """Both roles of start_tls, by contexts."""
    leaf = authority.issue_cert("example.org")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pair.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = SSLContext.for_server(tmp_path / "pair.pem", policy=RELAY)
    client = SSLContext.for_client(cafile=tmp_path / "ca.pem", policy=RELAY)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        left, protocol = await loop.create_connection(Echo, sock=ours)
        right, other = await loop.create_connection(Echo, sock=theirs)
        one, two = await asyncio.gather(
            aio.start_tls(left, protocol, client, server_hostname="example.org"),
            aio.start_tls(right, other, server, server_side=True),
        )
        assert one.get_extra_info("sslcontext") is client
        two.write(b"hello")
        one.close()
        two.close()
        await asyncio.gather(protocol.ended, other.ended)

    run(work())
