"""Tests of pair: two ends, which nobody else gets."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.wrap.relay import pair


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_pair(family: int) -> None:
    """They are each other's, of the family that is wanted."""

    async def work() -> None:
        ours, theirs = await pair.make(family)
        with ours, theirs:
            assert ours.getpeername() == theirs.getsockname()
            assert theirs.getpeername() == ours.getsockname()
            assert {ours.family, theirs.family} == {family}
            theirs.send(b"data")
            assert await asyncio.get_running_loop().sock_recv(ours, 9) == b"data"

    asyncio.run(work())


def test_options() -> None:
    """The program's end has a buffer of the size that it wants from the beginning."""

    async def work() -> None:
        def prepare(listener: socket.socket) -> None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)

        ours, theirs = await pair.make(socket.AF_INET, prepare)
        with ours, theirs:
            assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 4096
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 4096

    asyncio.run(work())


def test_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger who is first at the address gets nothing."""
    strangers: list[socket.socket] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def late(sock: socket.socket, address: tuple[str, int]) -> None:
            strangers.append(socket.create_connection(address))
            await connect(sock, address)

        monkeypatch.setattr(loop, "sock_connect", late)
        ours, theirs = await pair.make(socket.AF_INET)
        with ours, theirs, strangers[0] as stranger:
            assert ours.getpeername() == theirs.getsockname()
            assert theirs.getpeername() == ours.getsockname()
            assert stranger.recv(1) == b""

    asyncio.run(work())


def test_want(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no pair nothing is left behind."""

    async def work() -> None:
        before = descriptors()

        async def refuse(*_: object) -> None:
            raise ConnectionRefusedError

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_accept", refuse)
        with pytest.raises(ConnectionRefusedError):
            await pair.make(socket.AF_INET)
        check_descriptors(before)

    asyncio.run(work())


def test_end_of_data() -> None:
    """An end that is marked as a cut is an error; another one is an end."""

    async def work(*, is_cut: bool) -> int:
        ours, theirs = await pair.make(socket.AF_INET)
        with ours:
            theirs.send(b"data")
            theirs.close()
            ours.is_cut = is_cut
            ours.settimeout(60)
            room = bytearray(9)
            assert (ours.recv_into(room), ours.has_ended) == (4, False)
            try:
                return ours.recv_into(room)
            finally:
                assert ours.has_ended

    assert asyncio.run(work(is_cut=False)) == 0
    with pytest.raises(ConnectionAbortedError):
        asyncio.run(work(is_cut=True))
