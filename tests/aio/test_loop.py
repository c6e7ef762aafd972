"""Tests of loop: programs written for asyncio's own TLS go on as they are."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from tests.aio.peers import Echo
from tests.doubles import KERNEL, OFFLOADS, RELAY, Lab, check_descriptors, descriptors
from tlsify.aio.loop import EventLoop, new_event_loop
from tlsify.aio.transport import sendfile
from tlsify.errors import DeadlineExceeded, IdentityError, PeerMisbehaved
from tlsify.integrations.uvloop import EventLoop as UvloopEventLoop
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.object import SSLObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy

    Run = Callable[[Any], None]

both = pytest.mark.parametrize("policy", OFFLOADS)
HERE = "127.0.0.1"
# Seconds for one step of a client's: guests are slow.
PATIENCE = 60


@pytest.fixture(params=[EventLoop, UvloopEventLoop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine on tlsify's own loop, which nobody tells of a bug."""
    request.param().close()
    before = descriptors()

    def run(work: Any) -> None:
        reports: list[Any] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, report: reports.append(report))
            runner.run(work)
        assert not reports

    yield run
    check_descriptors(before)


class Pair:
    """Contexts that trust each other, tlsify's and Python's."""

    def __init__(self, authority: trustme.CA, folder: Path) -> None:
        """Write the files."""
        leaf = authority.issue_cert("example.org", "127.0.0.1")
        self.pair, self.ca = folder / "pair.pem", folder / "ca.pem"
        leaf.private_key_and_cert_chain_pem.write_to_path(self.pair)
        authority.cert_pem.write_to_path(self.ca)

    def server(self, policy: KtlsPolicy | None) -> ssl.SSLContext:
        """Make a server's; Python's own where there is no policy."""
        if policy is None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.pair)
            return context
        return SSLContext.for_server(self.pair, policy=policy)

    def client(self, policy: KtlsPolicy | None) -> ssl.SSLContext:
        """Make a client's, likewise."""
        if policy is None:
            return ssl.create_default_context(cafile=self.ca)
        return SSLContext.for_client(cafile=self.ca, policy=policy)


@pytest.fixture
def pair(authority: trustme.CA, tmp_path: Path) -> Pair:
    """Contexts."""
    return Pair(authority, tmp_path)


MIXTURES = (
    pytest.param(RELAY, RELAY, id="relay"),
    pytest.param(RELAY, None, id="server"),
    pytest.param(None, RELAY, id="client"),
    pytest.param(None, None, id="none of ours"),
    pytest.param(KERNEL, KERNEL, id="kernel", marks=pytest.mark.ktls),
)


@pytest.mark.parametrize(("ours", "theirs"), MIXTURES)
def test_streams(run: Run, pair: Pair, ours: KtlsPolicy | None, theirs: KtlsPolicy | None) -> None:
    """asyncio.start_server and open_connection, with any mixture of contexts."""
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        facts = writer.get_extra_info("ssl_object")
        line = await reader.readline()
        writer.write(facts.version().encode() + b" " + line)
        writer.close()
        await writer.wait_closed()
        answered.set()

    async def work() -> None:
        server = await asyncio.start_server(
            answer, HERE, 0, ssl=pair.server(ours), ssl_handshake_timeout=60
        )
        async with server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(
                *address, ssl=pair.client(theirs), server_hostname="example.org"
            )
            assert writer.get_extra_info("peercert")["subjectAltName"]
            writer.write(b"hello\n")
            assert await reader.read() == b"TLSv1.3 hello\n"
            writer.close()
            await writer.wait_closed()
            await answered.wait()

    run(work())


@both
def test_accepted_elsewhere(run: Run, pair: Pair, policy: KtlsPolicy) -> None:
    """connect_accepted_socket, and start_tls on both sides of a plain connection."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server((HERE, 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
            first = socket.create_connection(listener.getsockname())
            second, _ = listener.accept()
        connecting = asyncio.create_task(
            loop.create_connection(
                Echo, sock=ours, ssl=pair.client(policy), server_hostname="example.org"
            )
        )
        transport, protocol = await loop.connect_accepted_socket(
            Echo, theirs, ssl=pair.server(policy), ssl_handshake_timeout=60
        )
        other, other_protocol = await connecting
        transport.close()
        await asyncio.gather(protocol.ended, other_protocol.ended)
        assert other.is_closing()

        left, one = await loop.create_connection(Echo, sock=first)
        right, two = await loop.connect_accepted_socket(Echo, second)
        upgraded = await asyncio.gather(
            loop.start_tls(left, one, pair.client(policy), server_hostname="example.org"),
            loop.start_tls(right, two, pair.server(policy), server_side=True),
        )
        assert upgraded[0] is not None
        upgraded[0].abort()
        await asyncio.gather(one.ended, two.ended)

    run(work())


@both
def test_stream_writer_upgrades(run: Run, pair: Pair, policy: KtlsPolicy) -> None:
    """StreamWriter.start_tls."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go ahead\n")
        await writer.start_tls(pair.server(policy))
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    async def work() -> None:
        async with await asyncio.start_server(answer, HERE, 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go ahead\n"
            await writer.start_tls(pair.client(policy), server_hostname="example.org")
            writer.write(b"hello\n")
            assert await reader.read() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()

    run(work())


def test_errors_as_programs_expect_them(run: Run, pair: Pair) -> None:
    """A failed handshake is an ssl.SSLError; whom we did not want, one about certificates."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, HERE, 0, ssl=pair.server(RELAY))
        address = server.sockets[0].getsockname()
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await loop.create_connection(
                Echo, *address, ssl=pair.client(RELAY), server_hostname="example.net"
            )
        assert isinstance(caught.value.__cause__, IdentityError)
        with socket.create_connection(address) as sock, pytest.raises(ValueError, match="hostname"):
            await loop.create_connection(Echo, sock=sock, ssl=pair.client(RELAY))
        for refused in (
            lambda: loop.create_connection(
                Echo, *address, ssl=pair.client(RELAY), ssl_handshake_timeout=0
            ),
            lambda: loop.create_server(
                Echo, HERE, 0, ssl=pair.server(RELAY), ssl_handshake_timeout=-1
            ),
        ):
            with pytest.raises(ValueError, match="positive"):
                await refused()
        ours, theirs = socket.socketpair()
        theirs.sendall(b"GET / HTTP/1.0\r\n\r\n")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ssl.SSLError) as other:
            await loop.connect_accepted_socket(Echo, ours, ssl=pair.server(RELAY))
        assert isinstance(other.value.__cause__, PeerMisbehaved)
        theirs.close()
        ours, theirs = socket.socketpair()
        with pytest.raises(ConnectionAbortedError, match="within") as late:
            await loop.connect_accepted_socket(
                Echo, ours, ssl=pair.server(RELAY), ssl_handshake_timeout=0.05
            )
        assert isinstance(late.value.__cause__, DeadlineExceeded)
        theirs.close()
        with socket.create_server((HERE, 0)) as silent:
            with pytest.raises(ConnectionAbortedError, match="within"):
                await loop.create_connection(
                    Echo, *silent.getsockname(), ssl=pair.client(RELAY), ssl_handshake_timeout=0.05
                )
            reader, writer = await asyncio.open_connection(*silent.getsockname())
            with pytest.raises(ConnectionAbortedError, match="within"):
                await writer.start_tls(
                    pair.client(RELAY), server_hostname="example.org", ssl_handshake_timeout=0.05
                )
            del reader
        server.close()
        await server.wait_closed()

    run(work())


def test_empty_server_hostname(run: Run, pair: Pair) -> None:
    """It is no name: none is sent, and who compares names is told to give one."""
    made: list[Echo] = []

    def make() -> Echo:
        made.append(Echo())
        return made[-1]

    async def work() -> None:
        server = await asyncio.get_running_loop().create_server(
            make, HERE, 0, ssl=pair.server(RELAY)
        )
        address = server.sockets[0].getsockname()
        client = pair.client(RELAY)
        with pytest.raises(ValueError, match="check_hostname requires server_hostname"):
            await asyncio.open_connection(*address, ssl=client, server_hostname="")
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(*address, ssl=client, server_hostname="")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        (served,) = made
        assert served.transport.get_extra_info("ssl_object").server_hostname is None
        writer.close()
        await writer.wait_closed()
        await served.ended
        server.close()
        await server.wait_closed()

    run(work())


def test_sockets_of_the_file_system(run: Run, pair: Pair, tmp_path: Path) -> None:
    """The loop's own TLS takes tlsify's context there; without TLS it is what it was."""
    path = str(tmp_path / "socket")

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for context in (pair.server(RELAY), None):
            server = await loop.create_unix_server(Echo, path, ssl=context)
            reader, writer = await asyncio.open_unix_connection(
                path,
                ssl=context and pair.client(RELAY),
                server_hostname="example.org" if context else None,
            )
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    run(work())


@both
def test_sendfile(
    run: Run, pair: Pair, policy: KtlsPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """loop.sendfile, which is all that servers call, is the kernel's; so is aio.sendfile."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 10_000)
    calls: list[int] = []
    genuine = os.sendfile

    def counted(*args: Any) -> int:
        calls.append(genuine(*args))
        return calls[-1]

    monkeypatch.setattr(os, "sendfile", counted)

    class Sender(Echo):
        def data_received(self, data: bytes) -> None:
            self.received += data
            self.task = asyncio.create_task(self.send_it())

        async def send_it(self) -> None:
            with path.open("rb") as file:
                loop = asyncio.get_running_loop()
                assert await loop.sendfile(self.transport, file) == 2_560_000
                assert await loop.sendfile(self.transport, file, 256, 256) == 256
                assert await sendfile(self.transport, file) == 2_560_000
                assert await sendfile(self.transport, file, 0, 2_560_000) == 2_560_000
                assert await sendfile(self.transport, file, 256, 256) == 256
            self.transport.close()

    def fetch(address: tuple[str, int]) -> bytes:
        # Not by uvloop, whose own TLS loses the end of a stream that it reads too slowly.
        with (
            socket.create_connection(address, timeout=PATIENCE) as sock,
            pair.client(None).wrap_socket(sock, server_hostname="example.org") as tls,
        ):
            tls.sendall(b"file")
            return b"".join(iter(lambda: tls.recv(2**16), b""))

    async def work() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Sender, HERE, 0, ssl=pair.server(policy))
        received = await asyncio.to_thread(fetch, server.sockets[0].getsockname())
        assert received == bytes(range(256)) * 30_002
        assert len(calls) >= 2
        server.close()
        await server.wait_closed()

    run(work())


@both
@pytest.mark.parametrize("change", ["truncated", "replaced"])
def test_file_that_changes(
    run: Run, pair: Pair, policy: KtlsPolicy, tmp_path: Path, change: str
) -> None:
    """A file cut short ends its connection; one that was replaced is sent to its old end."""
    path, other = tmp_path / "file", tmp_path / "other"
    size = 32_000_000  # more than all buffers on the way
    path.write_bytes(b"old!" * (size // 4))
    other.write_bytes(b"new!")

    class Sender(Echo):
        def data_received(self, data: bytes) -> None:
            self.received += data
            self.task = asyncio.create_task(self.send_it())

        async def send_it(self) -> None:
            loop = asyncio.get_running_loop()
            with path.open("rb") as file:
                self.sent.set_result(await loop.sendfile(self.transport, file, 0, size))
            self.transport.write(b"the next answer")
            self.transport.close()

    def fetch(address: tuple[str, int]) -> tuple[bytes, bool]:
        received, orderly = bytearray(), False
        with (
            socket.create_connection(address, timeout=PATIENCE) as sock,
            pair.client(None).wrap_socket(
                sock, server_hostname="example.org", suppress_ragged_eofs=False
            ) as tls,
        ):
            tls.sendall(b"file")
            received += tls.recv(1000)
            if change == "truncated":
                os.truncate(path, 2000)
            else:
                other.replace(path)
            with suppress(ssl.SSLEOFError):
                while more := tls.recv(2**16):
                    received += more
                orderly = True
        return bytes(received), orderly

    async def work() -> None:
        protocols: list[Sender] = []

        def make() -> Sender:
            protocols.append(Sender())
            return protocols[-1]

        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, HERE, 0, ssl=pair.server(policy))
        received, orderly = await asyncio.to_thread(fetch, server.sockets[0].getsockname())
        if change == "replaced":
            assert orderly
            assert received == b"old!" * (size // 4) + b"the next answer"
        else:
            assert not orderly
            assert len(received) == await protocols[0].sent < size
            assert b"answer" not in received
        server.close()
        await server.wait_closed()

    run(work())


def test_plain_connections(run: Run, lab: Lab) -> None:
    """Without TLS the loop is what it was."""

    async def work() -> None:
        async with await asyncio.start_server(lambda _, writer: writer.close(), HERE, 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
        ours, theirs = lab.tcp()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Echo, ours)
        theirs.sendall(b"hello")
        assert await asyncio.to_thread(theirs.recv, 5) == b"hello"
        transport.close()

    run(work())


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize(("ours", "theirs"), [(RELAY, RELAY), (RELAY, None), (None, RELAY)])
def test_loop_that_is_not_ours(
    pair: Pair, factory: Any, ours: KtlsPolicy | None, theirs: KtlsPolicy | None
) -> None:
    """There the loop's own TLS takes tlsify's context: data of any size, and the end."""
    big = bytes(range(256)) * 10_000

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(big)))
        writer.close()

    async def work() -> None:
        # The end is seen when it comes, and not when somebody's patience is over.
        server = await asyncio.start_server(
            answer, HERE, 0, ssl=pair.server(ours), ssl_shutdown_timeout=3600
        )
        address = server.sockets[0].getsockname()
        client = pair.client(theirs)
        reader, writer = await asyncio.open_connection(
            *address, ssl=client, server_hostname="example.org"
        )
        assert getattr(writer.get_extra_info("ssl_object"), "ktls", None) == (
            theirs and "policy-off"
        )
        writer.write(big)
        assert await reader.read(-1) == big
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(*address, ssl=client, server_hostname="other.example")
        server.close()
        await server.wait_closed()

    reports: list[Any] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, report: reports.append(report))
        runner.run(work())
    assert not reports


def test_tls_within_tls(pair: Pair) -> None:
    """A tunnel through a proxy that speaks TLS: the inner connection is in memory."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        inner = pair.server(RELAY)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"CONNECT\n"
            writer.write(b"OK\n")
            await writer.start_tls(inner)
            writer.write(await reader.readexactly(5))
            writer.close()

        server = await asyncio.start_server(serve, HERE, 0, ssl=pair.server(RELAY))
        client = pair.client(RELAY)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client, server_hostname="example.org"
        )
        writer.write(b"CONNECT\n")
        assert await reader.readline() == b"OK\n"
        await writer.start_tls(client, server_hostname="example.org")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert isinstance(writer.get_extra_info("ssl_object"), SSLObject)
        writer.close()
        server.close()
        await server.wait_closed()
        assert loop.is_running()

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(work())


def test_tls_of_pythons(run: Run, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """A server that has chosen the loop and not the context is told so, once."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for context in (None, pair.server(RELAY), pair.server(None), pair.server(None)):
            (await loop.create_server(Echo, HERE, 0, ssl=context)).close()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "this server's TLS is Python's" in caplog.text

    run(work())


def test_new_event_loop() -> None:
    """For whoever wants a function."""
    loop = new_event_loop()
    assert isinstance(loop, EventLoop)
    loop.close()
