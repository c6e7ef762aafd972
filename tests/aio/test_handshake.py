"""Tests of handshake: the handshake on the loop, of either kind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import OFFLOADS, RELAY, Endpoint, Lab, give_up, until
from tlsify.aio import handshake
from tlsify.aio.handshake import hand_over
from tlsify.aio.loop_socket import LoopSocket
from tlsify.aio.pending import silence
from tlsify.codepoints import ContentType
from tlsify.connection.ending.patience import unread
from tlsify.connection.establish import accept
from tlsify.connection.handoff import Offload
from tlsify.connection.setup import handshake as driver
from tlsify.errors import DeadlineExceeded, PeerMisbehaved
from tlsify.tls.record import encode_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import KtlsPolicy

    Run = Callable[[Any], Any]

both = pytest.mark.parametrize("policy", OFFLOADS)


@both
def test_client(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """``hand_over`` does the client's side as well, and gives a socket that never waits."""

    async def work() -> None:
        ours, theirs = lab.tcp()
        client, server = lab.configs()
        other = Endpoint(lambda: accept(theirs, server, policy))
        handed = await hand_over(ours, client, policy)
        assert handed.sock.gettimeout() == 0
        peer = lab.keep(other.result())
        with LoopSocket(handed) as stream:
            assert stream.offload is (Offload.RELAY if policy is RELAY else Offload.KERNEL)
            await asyncio.get_running_loop().sock_sendall(stream, b"hello")
            assert peer.sock.recv(9) == b"hello"
        until(lambda: ours.fileno() == -1)  # a relay has it until then

    run(work())


def test_others_get_their_turn(run: Run, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has filled our buffer with what takes us long does not keep the loop with it."""
    monkeypatch.setattr(handshake, "_LONGEST_TURN", 0.0)
    monkeypatch.setattr("tlsify.tls.engine.FIRST_FLIGHT", 64)
    byte = encode_record(ContentType.handshake, b"\0")
    flood = encode_record(ContentType.handshake, b"\1\0\xff\xff") + byte * 2500
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def work() -> None:
        ours, theirs = lab.tcp()
        ours.sendall(flood)
        until(lambda: unread(theirs) > len(flood) // 2)
        counting = asyncio.create_task(count())
        monkeypatch.setattr(driver, "PARTING_TIME", 0.0)
        with pytest.raises(PeerMisbehaved, match="too many records"):
            await hand_over(theirs, lab.configs()[1], RELAY)
        counting.cancel()

    run(work())
    assert turns > 100


@pytest.mark.parametrize("override", [False, True])
def test_deadline(run: Run, lab: Lab, *, override: bool) -> None:
    """It is tlsify's error, and closes the socket; the caller's own goes before."""

    async def work() -> None:
        ours, _theirs = lab.tcp()
        client = dataclasses.replace(lab.configs()[0], timeout=20 if override else 0.05)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 seconds"):
            await hand_over(ours, client, RELAY, 0.05 if override else None)
        assert ours.fileno() == -1

    run(work())


def test_peer_that_tcp_has_given_up(run: Run, lab: Lab) -> None:
    """TCP's time-out is not the handshake's, which may have had more time left."""

    async def work() -> None:
        ours, _theirs = lab.tcp()
        give_up(ours)
        with pytest.raises(TimeoutError) as raised:
            await hand_over(ours, lab.configs()[0], RELAY)
        assert raised.value.errno == errno.ETIMEDOUT

    run(work())


@both
@pytest.mark.parametrize("spoken", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x04"])
def test_cancelled(run: Run, lab: Lab, policy: KtlsPolicy, spoken: bytes) -> None:
    """At any point in the handshake: the socket is closed, and the loop lets go of it."""

    async def work() -> None:
        ours, theirs = lab.tcp()
        theirs.sendall(spoken)
        task = asyncio.create_task(hand_over(ours, lab.configs()[1], policy))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ours.fileno() == -1
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.to_thread(theirs.recv, 1) == b""

    run(work())


@both
def test_unread_bytes_show_while_it_lasts(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """`PendingHandshakes` sees them, and takes no handshake that goes on for a stalled one."""

    async def work() -> None:
        ours, theirs = lab.tcp()
        theirs.sendall(b"\x16\x03\x01")
        task = asyncio.create_task(hand_over(ours, lab.configs()[1], policy))
        for _ in range(5):
            await asyncio.sleep(0)
        theirs.sendall(b"\x00\x04" + bytes(4))  # all that is waited for
        until(lambda: silence(ours) == 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())


def test_refused_peer_gets_its_alert(run: Run, lab: Lab) -> None:
    """Unread bytes behind a bad hello do not reset the alert away."""

    async def work() -> None:
        ours, theirs = lab.tcp()
        theirs.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(10000))
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerMisbehaved):
            await hand_over(ours, lab.configs()[1], RELAY)
        assert theirs.recv(100)[0] == ContentType.alert
        assert theirs.recv(100) == b""

    run(work())
