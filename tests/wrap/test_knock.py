"""Tests of knock: a program is woken up, and its queue emptied of what is none of its business."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING

from tests.wrap.test_steering import bound
from tlsify.wrap.knock import Knock, take
from tlsify.wrap.steering import Group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_DEFER_ACCEPT = 9


def _with_group(work: Callable[[Group, socket.socket], Awaitable[None]], *options: int) -> None:
    async def run() -> None:
        with bound("127.0.0.1") as theirs:
            for option in options:
                theirs.setsockopt(socket.IPPROTO_TCP, option, 30)
            group = Group(theirs, 1)
            with group.ours:
                await work(group, theirs)

    asyncio.run(run())


async def _arrived(*knocks: Knock) -> None:
    while not all(knock.has_arrived for knock in knocks):  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0)


def test_knocks_are_told_from_clients() -> None:
    """The former are taken out in their order; a client that strayed is let in."""

    async def work(group: Group, theirs: socket.socket) -> None:
        known: dict[int, Knock] = {}
        strays: list[object] = []

        def admit(sock: socket.socket, name: object) -> None:
            sock.close()
            strays.append(name)

        first = Knock(group, theirs, known)
        await _arrived(first)
        # Nothing from outside gets here; a local program may have learnt how.
        stray, address = group.source(theirs)
        stray.setblocking(True)
        stray.connect(address)
        second = Knock(group, theirs, known)
        await _arrived(second)
        assert list(take(theirs, known, admit)) == [first, second]
        assert (known, strays) == ({}, [stray.getsockname()])
        assert list(take(theirs, known, admit)) == []
        stray.close()
        for knock in (first, second):
            knock.withdraw()

    _with_group(work)


def test_deferred_accept() -> None:
    """A program that waits for a client's first byte is woken up, too."""

    async def work(group: Group, theirs: socket.socket) -> None:
        known: dict[int, Knock] = {}
        knock = Knock(group, theirs, known)
        await _arrived(knock)
        assert select.select([theirs], [], [], 60)[0]
        knock.withdraw()
        assert list(take(theirs, known, lambda *_: None)) == [knock]

    _with_group(work, _DEFER_ACCEPT)


def test_withdrawn() -> None:
    """One that has arrived is still known in the queue; to withdraw it again does no harm."""

    async def work(group: Group, theirs: socket.socket) -> None:
        known: dict[int, Knock] = {}
        knock = Knock(group, theirs, known)
        for _ in range(2):
            knock.withdraw()
        assert known == {knock.port: knock}
        assert list(take(theirs, known, lambda *_: None)) == [knock]
        assert known == {}

    _with_group(work)
