"""Tests of introduction: a protocol whose first call fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.aio.peers import CARRIERS, Echo, raw_peer, serving
from tests.doubles import OFFLOADS, Endpoint, Lab, RawPeer
from tlsify.aio import create_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import KtlsPolicy

    Run = Callable[[Any], list[dict[str, Any]]]


class Failing(Echo):
    """Fails in its first call, and is told of the end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Fail."""
        super().connection_made(transport)
        raise ZeroDivisionError


@pytest.mark.parametrize("policy", OFFLOADS)
def test_failing_client(reporting: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """The connection is cut, and the caller gets the error, which the loop reports, too."""
    client, server = lab.configs()
    ours, theirs = lab.tcp()
    made: list[Failing] = []

    def make() -> Failing:
        made.append(Failing())
        return made[0]

    async def work() -> None:
        other = Endpoint(lambda: RawPeer(theirs, server))
        options: dict[str, Any] = {"config": client, "policy": policy, "sock": ours}
        with pytest.raises(ZeroDivisionError):
            await create_connection(make, **options)
        assert await made[0].ended is None
        peer = await asyncio.to_thread(other.result)
        assert await asyncio.to_thread(peer.recv) is None

    (report,) = reporting(work())
    assert isinstance(report["exception"], ZeroDivisionError)


@pytest.mark.parametrize("policy", CARRIERS)
def test_failing_server(reporting: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """The connection is cut, and the loop reports the error."""

    async def work() -> None:
        async with serving(lab.configs()[1], policy, Failing) as server:
            peer = await raw_peer(lab, server)
            assert await asyncio.to_thread(peer.recv) is None

    (report,) = reporting(work())
    assert isinstance(report["exception"], ZeroDivisionError)
