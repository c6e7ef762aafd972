"""Tests of send_file."""

from __future__ import annotations

import asyncio
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import KERNEL, OFFLOADS, Lab, check_descriptors, descriptors
from tlsify.aio.loop_socket import LoopSocket
from tlsify.aio.pump import readable
from tlsify.aio.send_file import pour
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.ktls.probe import capabilities
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.doubles import RawPeer
    from tlsify.config import KtlsPolicy

both = pytest.mark.parametrize("policy", OFFLOADS)
CONTENT = bytes(range(256)) * 62_500
SIZE = len(CONTENT)  # more than all buffers on the way


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is not sent at once."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@contextmanager
def connected(lab: Lab, policy: KtlsPolicy) -> Iterator[tuple[LoopSocket, RawPeer]]:
    """A connection as a loop has it; nothing of it is left open."""
    handoff, peer = lab.server(policy)
    with LoopSocket(handoff) as stream, peer.sock:
        stream.settimeout(0)
        yield stream, peer


@both
def test_all_of_it(lab: Lab, policy: KtlsPolicy, file: Path) -> None:
    """Whatever the pieces that the socket takes; the file is left behind its last byte sent."""

    async def work() -> None:
        with connected(lab, policy) as (stream, peer), file.open("rb") as source:
            sending = asyncio.create_task(pour(stream, source, 1, None))
            assert await asyncio.to_thread(peer.recv_data, SIZE - 1) == CONTENT[1:]
            assert await sending == SIZE - 1 == source.tell() - 1
            assert await pour(stream, source, 5, 3) == 3
            assert source.tell() == 8
            assert await asyncio.to_thread(peer.recv_data, 3) == bytes((5, 6, 7))

    asyncio.run(work())


@both
def test_socket_that_is_closed(lab: Lab, policy: KtlsPolicy, file: Path) -> None:
    """Who waits is told, and the loop watches a number no more that may be somebody else's."""

    async def work() -> None:
        with connected(lab, policy) as (stream, _), file.open("rb") as source:
            number = stream.fileno()
            sending = asyncio.create_task(pour(stream, source, 0, SIZE))
            await asyncio.sleep(0)
            stream.close()
            assert not asyncio.get_running_loop().remove_writer(number)
            with pytest.raises(ConnectionAbortedError, match="closed"):
                await sending

    asyncio.run(work())


@both
def test_cancelled(lab: Lab, policy: KtlsPolicy, file: Path) -> None:
    """The socket is watched no more, and may be closed."""

    async def work() -> None:
        with connected(lab, policy) as (stream, _), file.open("rb") as source:
            sending = asyncio.create_task(pour(stream, source, 0, SIZE))
            await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert not asyncio.get_running_loop().remove_writer(stream.fileno())
            assert stream.on_cut is None

    asyncio.run(work())


@both
@pytest.mark.parametrize("source", [io.BytesIO(b"data"), object()])
def test_no_file(lab: Lab, policy: KtlsPolicy, source: Any) -> None:
    """What has no descriptor is for others to copy."""

    async def work() -> None:
        unavailable = pytest.raises(asyncio.SendfileNotAvailableError)
        with connected(lab, policy) as (stream, _), unavailable:
            await pour(stream, source, 0, 4)

    asyncio.run(work())


@both
def test_peer_that_goes_away(lab: Lab, policy: KtlsPolicy, file: Path) -> None:
    """It is a connection error, whatever was sent before."""
    before = descriptors()

    async def work() -> None:
        with connected(lab, policy) as (stream, peer), file.open("rb") as source:
            sending = asyncio.create_task(pour(stream, source, 0, SIZE))
            await asyncio.to_thread(peer.recv_data, 1000)
            peer.sock.close()
            with pytest.raises(ConnectionError):
                await sending

    asyncio.run(work())
    check_descriptors(before)


@pytest.mark.ktls
@pytest.mark.parametrize(
    ("sent", "alert"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", AlertDescription.protocol_version),
        (b"\x17\x03\x03\xff\xff", AlertDescription.record_overflow),
    ],
)
def test_bytes_that_are_no_record(
    lab: Lab, file: Path, sent: bytes, alert: AlertDescription
) -> None:
    """They end the connection, with an alert, and are no fault of the file."""

    def receive(peer: RawPeer) -> AlertDescription:
        while True:
            received = peer.recv()
            assert received is not None
            if received[0] == ContentType.alert:
                return AlertDescription(received[1][1])

    async def work() -> None:
        with connected(lab, KERNEL) as (stream, peer), file.open("rb") as source:
            sending = asyncio.create_task(pour(stream, source, 0, SIZE))
            await asyncio.sleep(0)
            peer.sock.sendall(sent)
            with pytest.raises(ConnectionAbortedError, match="a record"):
                await sending
            assert await asyncio.to_thread(receive, peer) is alert

    asyncio.run(work())


@pytest.mark.ktls
def test_keys_change_between_pieces(lab: Lab, file: Path) -> None:
    """What the session owes the peer goes out between two pieces, and the file goes on."""

    def receive(peer: RawPeer) -> tuple[bytes, int]:
        content, updates = bytearray(), 0
        while len(content) < SIZE:
            received = peer.recv()
            assert received is not None
            if received[0] == ContentType.application_data:
                content += received[1]
            else:
                assert received[0] == ContentType.handshake
                peer.follow_key_update()
                updates += 1
        return bytes(content), updates

    async def work() -> None:
        with connected(lab, KERNEL) as (stream, peer), file.open("rb") as source:
            sending = asyncio.create_task(pour(stream, source, 0, SIZE))
            await asyncio.sleep(0.01)  # by now it waits
            peer.sock.sendall(peer.key_update(KeyUpdateRequest.update_requested))
            await readable(stream)
            if not capabilities().rekey:
                with pytest.raises(ConnectionAbortedError):
                    stream.recv(1)
                peer.sock.close()
                with pytest.raises(ConnectionError):
                    await sending
                return
            with pytest.raises(BlockingIOError):
                stream.recv(1)
            content, updates = await asyncio.to_thread(receive, peer)
            assert (content, updates) == (CONTENT, 1)
            assert await sending == SIZE

    asyncio.run(work())
