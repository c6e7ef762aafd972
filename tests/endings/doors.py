"""The library's doors, in one manner: what a program calls by each of them."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import socketserver
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

import tlsify.aio
from tests.doubles import read, reset
from tests.endings.peers import HOST
from tlsify.agent import ClientRequest
from tlsify.agent import client as by_agent
from tlsify.cli import main
from tlsify.cli.program import execute
from tlsify.config import ClientConfig, ClosePolicy, KtlsMode, KtlsPolicy
from tlsify.connection.establish import connect
from tlsify.connection.stream import TLSSocket
from tlsify.credentials.anchors import TrustAnchors
from tlsify.integrations.socketserver import TLSMixIn
from tlsify.receiver import Receiver
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tlsify.connection.handoff import Handoff


_TCP_ULP = 31


def drive(work: Coroutine[Any, Any, None]) -> None:
    """Run a program that waits for no loop."""
    with contextlib.suppress(StopIteration):
        work.send(None)
        raise AssertionError("there is no loop to wait for")


class Door:
    """A connection by one of them."""

    offload = ""

    def __init__(self, job: dict[str, Any], line: Any) -> None:
        """Store the test's settings, and the line to the test."""
        self.job, self.line = job, line
        self.policy = KtlsPolicy(KtlsMode(job["ktls"]))

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a program."""
        drive(work)

    def config(self) -> ClientConfig:
        """Return a client's configuration."""
        return ClientConfig.for_host(HOST, trust=TrustAnchors.load(Path(self.job["ca"])))

    def context(self) -> SSLContext:
        """Return a client's context."""
        return SSLContext.for_client(cafile=self.job["ca"], policy=self.policy)

    def dial(self) -> socket.socket:
        """Connect, without TLS."""
        return socket.create_connection(("127.0.0.1", self.job["port"]))

    async def open(self) -> None:
        """Return a connection."""
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        """Send some."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Wait until all are accepted."""

    async def receive(self) -> bytes:
        """Receive some; nothing at the end."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """End the sending direction."""
        raise NotImplementedError

    def close(self) -> None:
        """Close."""
        raise NotImplementedError

    async def closed(self) -> None:
        """Close it."""

    def abort(self) -> None:
        """Abort."""
        raise NotImplementedError

    def drop(self) -> None:
        """Forget it."""
        raise NotImplementedError


class ByHandoff(Door):
    """The bare descriptor."""

    handed: Handoff

    async def open(self) -> None:
        """Connect."""
        self.handed = connect(self.dial(), self.config(), self.policy)
        self.offload = self.handed.offload.value

    async def send(self, data: bytes) -> None:
        """Send as docs/handoff.md says (R25)."""
        self.handed.sock.sendall(data)
        poller = select.poll()
        poller.register(self.handed.sock, 0)
        if poller.poll(0):
            raise ConnectionResetError

    async def receive(self) -> bytes:
        """Receive as docs/handoff.md says."""
        return read(self.handed)

    def shutdown(self) -> None:
        """As there."""
        self.handed.shutdown()

    def close(self) -> None:
        """As there."""
        self.handed.close()

    def abort(self) -> None:
        """As there."""
        self.handed.abort()

    def drop(self) -> None:
        """Forget it."""
        del self.handed


class ByTLSSocket(Door):
    """A TLSSocket, whoever makes it."""

    stream: TLSSocket

    def make(self) -> TLSSocket:
        """Connect."""
        return TLSSocket(connect(self.dial(), self.config(), self.policy))

    async def open(self) -> None:
        """Connect."""
        self.stream = self.make()
        self.offload = self.stream.offload.value

    async def send(self, data: bytes) -> None:
        """As on any socket."""
        self.stream.sendall(data)

    async def receive(self) -> bytes:
        """As on any socket."""
        return self.stream.recv(2**16)

    def shutdown(self) -> None:
        """As on any socket."""
        self.stream.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """As on any socket."""
        self.stream.close()

    def abort(self) -> None:
        """As docs/handoff.md says."""
        self.stream.handoff.abort()

    def drop(self) -> None:
        """Forget it."""
        del self.stream


class BySSLContext(ByTLSSocket):
    """Python's ssl, in tlsify's terms."""

    def make(self) -> TLSSocket:
        """Connect as with `ssl`."""
        made: TLSSocket = self.context().wrap_socket(
            self.dial(), server_hostname=HOST, suppress_ragged_eofs=False
        )
        return made


class ByAgent(ByTLSSocket):
    """An agent's handshake."""

    def make(self) -> TLSSocket:
        """Ask it."""
        request = ClientRequest(
            server_name=HOST,
            identities=(f"dns:{HOST}",),
            trust=self.job["ca"],
            timeout=60,
            ktls=self.job["ktls"],
        )
        return TLSSocket(by_agent.connect(self.job["agent"], self.dial(), request))


class ByReceiver(ByTLSSocket):
    """A connection that ``tlsify forward`` has passed on."""

    def make(self) -> TLSSocket:
        """Wait for it."""
        with Receiver(self.job["path"]) as receiver:
            self.line.say(at="listening")
            closing = ClosePolicy.RELAXED if self.job["peer"] == "cut" else ClosePolicy.STRICT
            return receiver.accept(closing)[0]


class ByHandler(ByTLSSocket):
    """What a handler of socketserver has; the server closes it."""

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Serve one connection, by the program."""
        program = self.job["program"]
        done = threading.Event()
        door = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                door.stream = self.request
                try:
                    drive(work)
                finally:
                    done.set()
                if program == "return":
                    door.line.wait()

        mixins: dict[str, list[type]] = {
            "return": [socketserver.ThreadingMixIn],
            "serve-in-child": [socketserver.ForkingMixIn],
        }
        made: Any = type("Server", (TLSMixIn, *mixins.get(program, []), socketserver.TCPServer), {})
        made.daemon_threads = True
        context = SSLContext.for_server(self.job["cert"], self.job["key"], policy=self.policy)
        server = made(("127.0.0.1", 0), Handler, context=context)
        self.line.say(at="listening", port=server.server_address[1])
        server.handle_request()
        if program != "serve-in-child":
            done.wait()
        server.server_close()

    async def open(self) -> None:
        """Find it made."""
        self.offload = self.stream.offload.value

    def close(self) -> None:
        """Leave it to the server."""


class ByStreams(Door):
    """asyncio's streams."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on asyncio's own loop."""
        asyncio.run(work)

    async def open(self) -> None:
        """Connect."""
        self.reader, self.writer = await self.make()
        self.writer.transport.set_write_buffer_limits(0)
        self.offload = self.writer.get_extra_info("handoff").offload.value

    async def make(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect by tlsify's function."""
        return await tlsify.aio.open_connection(
            "127.0.0.1", self.job["port"], config=self.config(), policy=self.policy
        )

    async def send(self, data: bytes) -> None:
        """Write."""
        self.writer.write(data)

    async def flush(self) -> None:
        """Drain."""
        await self.writer.drain()

    async def receive(self) -> bytes:
        """Read."""
        return await self.reader.read(2**16)

    def shutdown(self) -> None:
        """Write the end."""
        self.writer.write_eof()

    def close(self) -> None:
        """Close."""
        self.writer.close()

    async def closed(self) -> None:
        """Wait for it."""
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Abort."""
        self.writer.transport.abort()


class ByUvloop(ByStreams):
    """The same on uvloop."""

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on uvloop's loop."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)


class ByEventLoop(ByStreams):
    """asyncio's own function on tlsify's loop."""

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on tlsify's loop."""
        with asyncio.Runner(loop_factory=tlsify.aio.EventLoop) as runner:
            runner.run(work)

    async def make(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect by asyncio's function."""
        return await asyncio.open_connection(
            "127.0.0.1", self.job["port"], ssl=self.context(), server_hostname=HOST
        )


class ByWrap(Door):
    """A socket that knows no TLS, of a child of the command."""

    listener: socket.socket
    sock: socket.socket

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Wrap the program, which runs in the process that would execute another one."""

        def become(_path: str, _program: list[str]) -> int:
            with socket.create_server(("127.0.0.1", 0)) as self.listener:
                self.line.say(at="listening", port=self.listener.getsockname()[1])
                try:
                    drive(work)
                except SystemExit as exc:
                    return int(exc.code or 0)
                except BaseException:
                    traceback.print_exc()
                    return 1
            return 0

        execute.become = become  # type: ignore[assignment]
        credentials = ["--cert", self.job["cert"], "--key", self.job["key"]]
        sys.exit(main([f"--ktls={self.job['ktls']}", "wrap", *credentials, "--", sys.executable]))

    async def open(self) -> None:
        """Accept."""
        self.sock, _ = self.listener.accept()
        is_kernel = self.sock.getsockopt(socket.IPPROTO_TCP, _TCP_ULP, 4).startswith(b"tls")
        self.offload = "kernel" if is_kernel else "relay"

    async def send(self, data: bytes) -> None:
        """As without TLS."""
        self.sock.sendall(data)

    async def receive(self) -> bytes:
        """As without TLS."""
        return self.sock.recv(2**16)

    def shutdown(self) -> None:
        """As without TLS."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """As without TLS."""
        self.sock.close()

    def abort(self) -> None:
        """As without TLS: by a reset."""
        reset(self.sock)

    def drop(self) -> None:
        """Forget it."""
        del self.sock


DOORS: dict[str, type[Door]] = {
    "Handoff": ByHandoff,
    "TLSSocket": ByTLSSocket,
    "sslcontext": BySSLContext,
    "agent": ByAgent,
    "aio": ByStreams,
    "uvloop": ByUvloop,
    "EventLoop": ByEventLoop,
    "socketserver": ByHandler,
    "receiver": ByReceiver,
    "wrap": ByWrap,
}
