"""Tests of admission: names behind proxies, and what is refused."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from tests.doubles import check_descriptors, descriptors
from tlsify.aio.admission import Admission
from tlsify.aio.limits import Limits
from tlsify.metrics.counters import Gauge, gauge
from tlsify.passing import proxies
from tlsify.passing.proxies import Proxies
from tlsify.passing.proxy_protocol import Header

if TYPE_CHECKING:
    from tlsify.aio.admission import Arrival


class Recorder(Admission):
    """Records what is known of each connection, and keeps it."""

    def __init__(self, listener: socket.socket, limits: Limits) -> None:
        """Begin with none."""
        super().__init__([listener], limits)
        self.proxies = Proxies.parse("127.0.0.1")
        self.known: asyncio.Queue[tuple[bool, object, Header | None]] = asyncio.Queue()
        self.leave = asyncio.Event()

    async def _attend(self, arrival: Arrival) -> None:
        left = await self._learn_name(arrival, 60)
        self._leave_opening(arrival.opening)
        self.known.put_nowait((left is not None, arrival.name, proxies.told.get()))
        await self.leave.wait()


def test_names() -> None:
    """A client counts by what its proxy tells; each connection has its own."""
    peer, local = ("192.0.2.1", 7), ("198.51.100.2", 443)

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        async with Recorder(listener, Limits(per_address=1)) as admission:
            for header, known in (
                (b"PROXY TCP4 192.0.2.1 198.51.100.2 7 443\r\n", (True, peer, Header(peer, local))),
                (
                    b"PROXY TCP4 192.0.2.1 198.51.100.2 7 443\r\n",
                    (False, peer, Header(peer, local)),
                ),
                (b"PROXY UNKNOWN\r\n", (True, None, None)),
            ):
                with socket.create_connection(listener.getsockname()) as sock:
                    sock.sendall(header)
                    is_within, name, told = await admission.known.get()
                    own = sock.getsockname()
                assert (is_within, name, told) == (known[0], known[1] or own, known[2])
            assert admission.connections == 3
            assert gauge(Gauge.HANDSHAKES) == 0
            admission.leave.set()
            while admission.connections:  # noqa: ASYNC110 - the loop ends them
                await asyncio.sleep(0)
            assert admission._origins.enter(b"\xc0\x00\x02\x01"), "its place is free again"

    asyncio.run(run())


def test_arrival_that_nobody_admits() -> None:
    """What is not opened is closed, and told of nowhere."""
    before = descriptors()
    seen: list[Arrival] = []

    class Absent(Admission):
        async def _attend(self, arrival: Arrival) -> None:
            seen.append(arrival)

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        with socket.create_connection(listener.getsockname()) as client:
            client.settimeout(0)
            async with Absent([listener]) as admission:
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
                assert admission.connections == 0

    asyncio.run(run())
    assert [each.is_admitted for each in seen] == [False]
    assert seen[0].opening.sock.fileno() == -1
    check_descriptors(before)


def test_newcomer_after_a_proxys_client() -> None:
    """Whoever is accepted because another has left its handshake is known by its own name."""

    class Passing(Admission):
        def __init__(self, listener: socket.socket) -> None:
            super().__init__([listener], Limits(handshakes=1))
            self.proxies = Proxies.parse("127.0.0.2")
            self.is_named, self.may_go_on = asyncio.Event(), asyncio.Event()
            self.told: asyncio.Queue[Header | None] = asyncio.Queue()

        async def _attend(self, arrival: Arrival) -> None:
            await self._learn_name(arrival, 60)
            self.is_named.set()
            await self.may_go_on.wait()
            self._leave_opening(arrival.opening)
            self._look_again()
            self.told.put_nowait(proxies.told.get())

    async def run() -> list[Header | None]:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        async with Passing(listener) as admission:
            with socket.create_connection(address, source_address=("127.0.0.2", 0)) as behind:
                behind.sendall(b"PROXY TCP4 192.0.2.1 198.51.100.2 7 443\r\n")
                await admission.is_named.wait()
                with socket.create_connection(address):
                    while admission._is_listening:  # noqa: ASYNC110 - until that one has to wait
                        await asyncio.sleep(0)
                    admission.may_go_on.set()
                    return [await admission.told.get() for _ in range(2)]

    first, second = asyncio.run(run())
    assert first is not None
    assert second is None
