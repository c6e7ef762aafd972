"""Tests of receiving on the loop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import check_descriptors, descriptors
from tests.passing.test_metadata import FULL
from tlsify.aio import receiving
from tlsify.aio.receiving import Receiving
from tlsify.aio.transport import attach
from tlsify.connection.handoff import Handoff, Offload
from tlsify.errors import ConfigError, PeerMisbehaved
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.passing.metadata import ConnectionInfo

FULL_RELAY = FULL._replace(offload=Offload.RELAY)


class Upper(asyncio.Protocol):
    """Answers in capitals."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer, and tell what is known of the client."""
        name = self._transport.get_extra_info("peername")
        self._transport.write(data.upper() + f" {name[0]}".encode())


async def serve(handed: Handoff, told: ConnectionInfo) -> None:
    """Serve as an asyncio server does."""
    assert told == FULL_RELAY
    await attach(Upper, handed)


async def pass_one(path: Path, message: bytes | None = None) -> tuple[socket.socket, bytes]:
    """Pass one end of a pair; return the other, and what was answered."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(0)
        channel.connect(str(path))
        if message != b"":
            scm_rights.send(channel, message or FULL_RELAY.encode(), theirs.fileno())
        return ours, await loop.sock_recv(channel, 1)


async def ask(sock: socket.socket, size: int) -> bytes:
    """Ask, and receive the whole answer."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"hello")
    received = b""
    while len(received) < size:
        received += await loop.sock_recv(sock, size)
    return received


def test_protocols(tmp_path: Path) -> None:
    """Connections that were passed on are served side by side, each with its client's address."""
    before = descriptors()

    async def run() -> list[bytes]:
        async with Receiving(tmp_path / "socket", serve):
            passed = [await pass_one(tmp_path / "socket") for _ in range(5)]
            assert {answer for _, answer in passed} == {b""}
            answers = await asyncio.gather(*(ask(sock, 15) for sock, _ in passed))
            for sock, _ in passed:
                sock.close()
        return answers

    assert asyncio.run(run(), debug=True) == [b"HELLO 192.0.2.1"] * 5
    check_descriptors(before)


def test_silence_and_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither keeps others out, and both are logged."""
    monkeypatch.setattr(receiving, "_PATIENCE", 0.05)

    async def run() -> None:
        async with Receiving(tmp_path / "socket", serve):
            silent = asyncio.create_task(pass_one(tmp_path / "socket", b""))
            sock, answer = await pass_one(tmp_path / "socket", b"nonsense")
            assert answer == b"\0"
            sock.close()
            sock, answer = await pass_one(tmp_path / "socket")
            assert await ask(sock, 15) == b"HELLO 192.0.2.1"
            sock.close()
            sock, answer = await silent
            assert answer == b""
            sock.close()

    asyncio.run(run())
    assert len([each for each in caplog.messages if "no connection was received" in each]) == 2


def test_faults_of_a_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a peer does wrong is a line in the log, and a bug is an error there; both are closed."""
    failures = [PeerMisbehaved("bad record"), RuntimeError("bug")]

    async def fail(*_: object) -> None:
        raise failures.pop()

    async def run() -> None:
        async with Receiving(tmp_path / "socket", fail):
            for _ in range(2):
                sock, _ = await pass_one(tmp_path / "socket")
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
                sock.close()

    with caplog.at_level("INFO"):
        asyncio.run(run())
    assert sorted(caplog.messages) == ["bug in a connection", "connection ended: bad record"]


def test_place_that_cannot_be_listened_on(tmp_path: Path) -> None:
    """It is told before anything begins."""
    with pytest.raises(ConfigError):
        Receiving(tmp_path / "no/such/folder", serve)
