"""Pairs of TCP sockets on loopback: one end for a wrapped program, and one for us."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Of 127.99.87.0/24, each in its turn: an address has as many ports as TCP has, and those of past
# connections are taken for a minute.
_HOSTS = itertools.cycle(f"127.99.87.{number}" for number in range(1, 255))
_AT_ONCE = struct.pack("=ii", 1, 0)  # struct linger: on, no time
_PATIENCE = 30.0  # seconds, for a host whose loopback answers nothing


class OurEnd(socket.socket):
    """The end that is ours, from which the program's data comes.

    Closing it is a reset, also where this process is killed: only `shutdown` is an end of data, and
    what a client's last data is must not be left to chance.

    Attributes:
        is_cut: whether an end of the data is none in good order.
        has_ended: whether the data has ended.
    """

    is_cut = has_ended = False

    def recv_into(self, *where: object) -> int:
        """Receive data; 0 at an end in good order.

        Raises:
            ConnectionAbortedError: the data has ended, but in no good order.
        """
        size: int = super().recv_into(*where)  # type: ignore[arg-type]
        if not size:
            self.has_ended = True
            if self.is_cut:
                raise ConnectionAbortedError
        return size


async def make(
    family: int, prepare: Callable[[socket.socket], None] = lambda _: None
) -> tuple[OurEnd, socket.socket]:
    """Make a pair, which no other process can join.

    Args:
        family: AF_INET or AF_INET6, as the program's listening socket has it.
        prepare: called with the listening socket that the program's end inherits its options from.

    Returns:
        Our end, and the program's.

    Raises:
        OSError: there is no descriptor or port, or no loopback.
    """
    loop = asyncio.get_running_loop()
    host = next(_HOSTS)
    ours = OurEnd(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            for each in (ours, listener):  # a program may listen at such a port later
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # it is there even where IPv6 is switched off
                host = f"::ffff:{host}"
                for each in (ours, listener):
                    each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            prepare(listener)
            listener.bind((host, 0))
            listener.listen()
            for each in (ours, listener):
                each.settimeout(0)
            async with asyncio.timeout(_PATIENCE):
                await loop.sock_connect(ours, listener.getsockname())
                while True:
                    theirs, name = await loop.sock_accept(listener)
                    if name == ours.getsockname():
                        break
                    theirs.close()  # a stranger's
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException as exc:
        ours.close()
        if isinstance(exc, TimeoutError) and exc.errno is None:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from exc
        raise
    return ours, theirs
