"""Tests of admission, by what admits: test_acceptor and test_plain_acceptor have the rest."""

from __future__ import annotations

import asyncio
import socket

from tests.doubles import check_descriptors, descriptors
from tlsify.aio.admission import Admission, Arrival


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
