"""The first call to a protocol, which may fail: the connection ends then, as with asyncio's TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def introduce(
    transport: asyncio.Transport,
    protocol: asyncio.BaseProtocol,
    waiter: asyncio.Future[None] | None,
) -> None:
    """Tell a protocol its transport, which is aborted if that fails.

    Args:
        transport: of the connection.
        protocol: its ``connection_made`` is called.
        waiter: gets its result, or the error, which the loop reports, too.
    """
    try:
        protocol.connection_made(transport)
    except BaseException as exc:
        transport.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc)
        raise
    settle(waiter)


def settle(waiter: asyncio.Future[None] | None) -> None:
    """Set the result of a waiter, unless there is none, or nobody waits any more."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
