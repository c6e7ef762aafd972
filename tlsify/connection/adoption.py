"""Go on with a connection that another process has detached, without what makes connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.connection.control import Channel
from tlsify.connection.handoff import Handoff, Offload
from tlsify.errors import ConfigError
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.tls.serialize import restore

if TYPE_CHECKING:
    import socket


def adopt(sock: socket.socket, state: bytes | bytearray) -> Handoff:
    """Go on with a connection that another process detached (`Handoff.detach`).

    Args:
        sock: the descriptor that came along, keyed as it was there.
        state: what came along with it; overwrite it afterwards.

    Raises:
        ConfigError: they do not belong together, or are no such thing.
    """
    # The state has secrets only if the kernel that has the keys can change them.
    negotiated, session = restore(state, can_rekey=True)
    if not all(ulp.is_keyed(sock, direction, negotiated.suite) for direction in Direction):
        raise ConfigError(
            f"the descriptor is not keyed with {negotiated.suite.name}",
            hint="hand over the descriptor that Handoff.detach gave",
        )
    return Handoff(sock, Offload.KERNEL, None, negotiated, Channel(sock, session), None)
