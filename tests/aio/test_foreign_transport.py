"""Tests of foreign_transport, and of asyncio's own transport, which behaves in the same way."""

from __future__ import annotations

import asyncio
import socket
from array import array
from contextlib import asynccontextmanager
from select import select
from typing import TYPE_CHECKING, Any

import pytest

from tests.aio.peers import CARRIERS, INLINE, Echo, raw_peer, serving
from tests.doubles import CLOSE_NOTIFY, OFFLOADS, RELAY, Lab, RawPeer, reset
from tlsify.aio.foreign_transport import ForeignTransport
from tlsify.aio.loop_socket import LoopSocket
from tlsify.aio.transport import sendfile
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.connection.ending import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tlsify.config import KtlsPolicy

    Run = Callable[[Any], Any]

every = pytest.mark.parametrize("policy", CARRIERS)
relayed = pytest.mark.parametrize("policy", [RELAY, INLINE], ids=["relay", "inline"])


@asynccontextmanager
async def connected(
    lab: Lab, policy: KtlsPolicy, make: Callable[[], Echo] = Echo
) -> AsyncIterator[tuple[Echo, RawPeer]]:
    """Connect a protocol and a peer made by hand."""
    async with serving(lab.configs()[1], policy, make) as server:
        peer = await raw_peer(lab, server)
        protocol = await server.first()
        is_own = isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
        is_foreign = isinstance(protocol.transport, ForeignTransport)
        assert is_foreign is (policy is INLINE or not is_own)
        yield protocol, peer
        if not protocol.ended.done():
            protocol.transport.abort()


class Metered(Echo):
    """Keeps what it is told of the flow."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.told: list[str] = []
        self.resumed = asyncio.Event()

    def pause_writing(self) -> None:
        """Keep it."""
        self.told.append("pause")

    def resume_writing(self) -> None:
        """Keep it."""
        self.told.append("resume")
        self.resumed.set()


class Heard(Echo):
    """Tells when data has come."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.heard = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Answer, and tell."""
        super().data_received(data)
        self.heard.set()


@every
def test_flow(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """A peer that does not read makes the protocol pause, until it does; nothing is lost."""
    chunk, total = bytes(2**16), 0

    async def work() -> None:
        nonlocal total
        async with connected(lab, policy, Metered) as (protocol, peer):
            assert isinstance(protocol, Metered)
            transport = protocol.transport
            transport.set_write_buffer_limits(high=2**18)
            assert transport.get_write_buffer_limits() == (2**16, 2**18)
            while not protocol.told:
                transport.write(chunk)
                total += len(chunk)
                await asyncio.sleep(0)
            assert protocol.told == ["pause"]
            assert transport.get_write_buffer_size() > 2**18
            transport.close()
            assert transport.is_closing()
            assert await asyncio.to_thread(peer.recv_data, total) == bytes(total)
            assert protocol.told == ["pause", "resume"]
            assert await asyncio.to_thread(peer.recv) == CLOSE_NOTIFY
            assert await protocol.ended is None

    run(work())


@every
def test_reading_paused(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """What comes meanwhile comes afterwards."""

    async def work() -> None:
        async with connected(lab, policy) as (protocol, peer):
            transport = protocol.transport
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            peer.send_data(b"data")
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert protocol.received == b""
            transport.resume_reading()
            transport.resume_reading()
            assert await asyncio.to_thread(peer.recv_data, 4) == b"data"

    run(work())


@every
def test_end_while_reading_is_paused(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """It comes afterwards, behind the data, and the answer still goes out."""
    eof = asyncio.Event()

    class Patient(Echo):
        def eof_received(self) -> bool:
            assert self.received == b"data"
            eof.set()
            return True

    async def work() -> None:
        async with connected(lab, policy, Patient) as (protocol, peer):
            transport = protocol.transport
            transport.pause_reading()
            peer.sock.sendall(peer.data(b"data") + peer.seal(*CLOSE_NOTIFY))
            peer.sock.shutdown(socket.SHUT_WR)
            there = transport.get_extra_info("socket").fileno()
            assert (await asyncio.to_thread(select, [there], [], [], 60))[0]
            for _ in range(5):
                await asyncio.sleep(0)
            assert protocol.received == b""
            assert not eof.is_set()
            transport.resume_reading()
            await eof.wait()
            assert await asyncio.to_thread(peer.recv_data, 4) == b"data"
            assert not protocol.ended.done()
            transport.close()
            assert await asyncio.to_thread(peer.recv) == CLOSE_NOTIFY
            assert await protocol.ended is None

    run(work())


@every
@pytest.mark.parametrize("size", [4, 4_000_000])
def test_half_close(run: Run, lab: Lab, policy: KtlsPolicy, size: int) -> None:
    """write_eof ends our direction, behind what was written; the peer's goes on."""
    eof = asyncio.Event()

    class Quiet(Echo):
        def data_received(self, data: bytes) -> None:
            self.received += data

        def eof_received(self) -> bool:
            eof.set()
            return True

    async def work() -> None:
        async with connected(lab, policy, Quiet) as (protocol, peer):
            transport = protocol.transport
            assert transport.can_write_eof()
            transport.write(bytes(size))
            transport.write_eof()
            transport.write_eof()
            with pytest.raises(RuntimeError):
                transport.write(b"more")
            assert await asyncio.to_thread(peer.recv_data, size) == bytes(size)
            assert await asyncio.to_thread(peer.recv) == CLOSE_NOTIFY
            await asyncio.to_thread(peer.send_data, b"answer")
            await asyncio.to_thread(peer.close_notify)
            await eof.wait()
            assert protocol.received == b"answer"
            assert not protocol.ended.done()
            transport.pause_reading()
            transport.resume_reading()
            transport.close()
            assert await protocol.ended is None

    run(work())


@relayed
@pytest.mark.parametrize("how", ["reading", "paused", "brief", "pausing", "closing", "file"])
def test_half_a_message(run: Run, lab: Lab, policy: KtlsPolicy, tmp_path: Path, how: str) -> None:
    """Data waits for the rest of a message of the peer's, whatever the transport does meanwhile."""
    data = b"" if how == "brief" else bytes(1_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)

    async def work() -> None:
        async with connected(lab, policy, Heard) as (protocol, peer):
            assert isinstance(protocol, Heard)
            transport = protocol.transport
            peer.sock.sendall(peer.data(b"?") + peer.seal(ContentType.handshake, b"\x18\0\0\1"))
            await protocol.heard.wait()
            if how in {"paused", "brief"}:
                transport.pause_reading()
            transport.write(b"first")
            if how == "file":
                with path.open("rb") as file:
                    sending = asyncio.create_task(sendfile(transport, file))
                    await asyncio.sleep(0)
                    peer.sock.sendall(peer.seal(ContentType.handshake, b"\0"))
                    assert await sending == len(data)
            else:
                transport.write(data)
                if how == "pausing":
                    transport.pause_reading()
                if how == "closing":
                    transport.close()
                elif how != "brief":
                    transport.write_eof()
                peer.sock.sendall(peer.seal(ContentType.handshake, b"\0"))
            assert await asyncio.to_thread(peer.recv_data, len(data) + 6) == b"?first" + data

    run(work())


@pytest.mark.parametrize("end", ["cut", "silence"])
@pytest.mark.parametrize("how", ["paused", "closing", "file"])
def test_half_a_message_for_ever(
    run: Run, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, end: str
) -> None:
    """A peer that completes one message and begins the next holds nothing, gone or idle."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    if end == "silence":
        monkeypatch.setattr(patience, "PATIENCE", 0)

    async def work() -> None:
        async with connected(lab, INLINE, Heard) as (protocol, peer):
            assert isinstance(protocol, Heard)
            transport = protocol.transport
            half = b"\x18\0\0\1"
            peer.sock.sendall(peer.data(b"?") + peer.seal(ContentType.handshake, half))
            await protocol.heard.wait()
            rest = peer.seal(ContentType.handshake, b"\0")
            peer.turn_key()
            rest += peer.data(b"!") + peer.seal(ContentType.handshake, half)
            if how == "file":
                with path.open("rb") as file:
                    sending = asyncio.create_task(sendfile(transport, file))
                    await asyncio.sleep(0)
                    _send_last(peer, rest, end)
                    with pytest.raises(BrokenPipeError):
                        await sending
            else:
                transport.write(path.read_bytes())
                transport.pause_reading() if how == "paused" else transport.close()
                _send_last(peer, rest, end)
                assert isinstance(await protocol.ended, BrokenPipeError)

    run(work())


def _send_last(peer: RawPeer, records: bytes, end: str) -> None:
    peer.sock.sendall(records)
    if end == "cut":
        peer.sock.shutdown(socket.SHUT_WR)


def test_bytes_only(run: Run, lab: Lab) -> None:
    """Anything else is the program's mistake; nothing at all is no mistake."""

    async def work() -> None:
        async with connected(lab, RELAY) as (protocol, peer):
            transport = protocol.transport
            with pytest.raises(TypeError):
                transport.write("text")
            transport.write(b"")
            transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
            assert await asyncio.to_thread(peer.recv_data, 3) == b"abc"
            for low, high in ((5, 4), (-1, None)):
                with pytest.raises(ValueError, match="must be >="):
                    transport.set_write_buffer_limits(high=high, low=low)
            transport.set_write_buffer_limits(low=10)
            assert transport.get_write_buffer_limits() == (10, 40)
            assert "fd=" in repr(transport)
            assert transport.get_protocol() is protocol

    run(work())


@every
def test_buffer_used_again(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """What is written counts as it is at that moment, and as its bytes; then it is the caller's."""

    async def work() -> None:
        async with connected(lab, policy, Metered) as (protocol, peer):
            assert isinstance(protocol, Metered)
            transport, expected = protocol.transport, bytearray()
            block = bytearray(2**16)
            while not protocol.told:
                block[:] = bytes([len(expected) >> 16 & 0x7F]) * len(block)
                expected += block
                transport.write(memoryview(block))
                await asyncio.sleep(0)
            numbers = memoryview(array("I", range(5000)))
            one, nothing = bytearray(b"one"), bytearray()
            parts: list[bytes | bytearray | memoryview[int]] = [one, numbers, b"two", nothing]
            transport.write(block)
            transport.write(numbers)
            transport.writelines(part for part in parts)
            expected += block + bytes(numbers) + b"".join(parts)
            block.clear()
            one.clear()
            nothing.extend(b"more")
            assert await asyncio.to_thread(peer.recv_data, len(expected)) == expected
            transport.write(memoryview(array("I", [1, 2, 3])))
            transport.writelines([])
            transport.writelines([b"end", b""])
            last = bytes(array("I", [1, 2, 3])) + b"end"
            assert await asyncio.to_thread(peer.recv_data, len(last)) == last
            assert not transport.get_write_buffer_size()

    run(work())


@every
def test_buffered_protocol(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """One that brings its own buffer; and a protocol may follow another."""
    ended = asyncio.Event()

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self, transport: asyncio.Transport) -> None:
            self.transport = transport
            self.buffer = bytearray(3)

        def get_buffer(self, sizehint: int) -> bytearray:
            assert sizehint == -1
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.transport.write(self.buffer[:nbytes])
            self.transport.pause_reading()
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self.transport.resume_reading)

        def connection_lost(self, exc: Exception | None) -> None:
            assert exc is None
            ended.set()

    async def work() -> None:
        async with connected(lab, policy) as (protocol, peer):
            protocol.transport.set_protocol(Buffered(protocol.transport))
            peer.send_data(b"longer than the buffer")
            assert await asyncio.to_thread(peer.recv_data, 22) == b"longer than the buffer"
            peer.close_notify()
            assert await asyncio.to_thread(peer.recv) == CLOSE_NOTIFY
            await ended.wait()
            protocol.ended.set_result(None)

    run(work())


class Listener(Echo):
    """Answers nothing, so that no sending finds that the connection is over."""

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.received += data


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("end", ["fin", "close_notify", "alert"])
@pytest.mark.parametrize("is_reset", [False, True], ids=["", "reset"])
def test_end_right_behind_data(
    run: Run, lab: Lab, policy: KtlsPolicy, end: str, *, is_reset: bool
) -> None:
    """It is found with the data; poll need not report it again, as on uvloop after a reset."""

    async def work() -> None:
        async with connected(lab, policy, Listener) as (protocol, peer):
            # The loop, which is waiting for this function, finds all of it at once.
            peer.send_data(b"a part")
            if end == "close_notify":
                peer.close_notify()
            elif end == "alert":
                peer.send_alert(AlertDescription.internal_error)
            elif not is_reset:
                peer.sock.shutdown(socket.SHUT_WR)
            if is_reset:
                reset(peer.sock)
            await protocol.ended

    run(work())


class Failing(Echo):
    """Fails in one of its methods."""

    where = ""

    def data_received(self, data: bytes) -> None:
        """Fail, or answer."""
        if self.where == "data_received":
            raise ZeroDivisionError
        super().data_received(data)

    def eof_received(self) -> None:
        """Fail."""
        raise ZeroDivisionError

    def pause_writing(self) -> None:
        """Fail."""
        raise ZeroDivisionError


class Empty(asyncio.BufferedProtocol):
    """Has no room."""

    def __init__(self, behind: Echo) -> None:
        """Keep who is told of the end."""
        self._behind = behind

    def get_buffer(self, sizehint: int) -> bytearray:
        """Fail."""
        assert sizehint == -1
        return bytearray()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._behind.connection_lost(exc)


@relayed
@pytest.mark.parametrize("where", ["data_received", "eof_received", "get_buffer"])
def test_protocol_that_fails(reporting: Run, lab: Lab, where: str, policy: KtlsPolicy) -> None:
    """The loop hears of it, and the connection ends."""

    async def work() -> None:
        async with connected(lab, policy, Failing) as (protocol, peer):
            assert isinstance(protocol, Failing)
            protocol.where = where
            if where == "get_buffer":
                protocol.transport.set_protocol(Empty(protocol))
            peer.send_data(b"data")
            peer.close_notify()
            assert await protocol.ended is not None

    (report,) = reporting(work())
    expected = RuntimeError if where == "get_buffer" else ZeroDivisionError
    assert isinstance(report["exception"], expected)


@relayed
def test_protocol_that_fails_to_pause(reporting: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """The loop hears of it, and the connection goes on."""

    async def work() -> None:
        async with connected(lab, policy, Failing) as (protocol, peer):
            protocol.transport.set_write_buffer_limits(high=0)
            protocol.transport.write(bytes(4_000_000))
            await asyncio.to_thread(peer.recv_data, 4_000_000)

    (report,) = reporting(work())
    assert isinstance(report["exception"], ZeroDivisionError)


@relayed
def test_one_thing_at_a_time(run: Run, lab: Lab, tmp_path: Path, policy: KtlsPolicy) -> None:
    """While a file is sent nothing else can be; closing meanwhile is an error of the sending."""
    path = tmp_path / "file"
    path.write_bytes(bytes(30_000_000))

    async def work() -> None:
        async with connected(lab, policy) as (protocol, _peer):
            transport = protocol.transport
            transport.write(bytes(4_000_000))
            with path.open("rb") as file:
                task = asyncio.create_task(sendfile(transport, file))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert not transport.is_reading()
                with pytest.raises(RuntimeError):
                    transport.write(b"data")
                transport.abort()
                with pytest.raises(ConnectionError):
                    await task

    run(work())


@pytest.mark.parametrize("is_error", [False, True])
def test_forgotten(lab: Lab, monkeypatch: pytest.MonkeyPatch, *, is_error: bool) -> None:
    """A transport that nobody closes is closed with a warning, as any other resource."""
    raised: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda error: raised.append(str(error.exc_value)))

    async def work() -> None:
        handed, peer = lab.server(RELAY)
        loop = asyncio.get_running_loop()
        transport = ForeignTransport(loop, LoopSocket(handed), asyncio.Protocol(), None, {})
        await asyncio.sleep(0)
        transport.pause_reading()
        if is_error:
            del transport
        else:
            with pytest.warns(ResourceWarning, match="unclosed <ForeignTransport"):
                del transport
        assert handed.sock.fileno() == -1
        assert await asyncio.to_thread(peer.recv) is None, "which is no end in good order"

    asyncio.run(work())
    assert [text.split()[:2] for text in raised] == [["unclosed", "<ForeignTransport"]] * is_error
