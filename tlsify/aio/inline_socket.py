"""InlineSocket: a relayed connection whose records its transport opens and seals, on the loop."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING, Any

from tlsify.aio.loop_socket import raise_os_error
from tlsify.config import ClosePolicy
from tlsify.connection.relay.loads import READ_SIZE, enter, leave
from tlsify.errors import TlsifyError, Truncated

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

    from tlsify.connection.handoff import Handoff
    from tlsify.connection.relay.inline import InlineRelay

_log = logging.getLogger("tlsify")

# Most bytes that are sealed at once: so much stays here of what a peer does not take.
PIECE = 2**17


class InlineSocket:
    """An `InlineRelay` in the terms of `ForeignTransport`, as `LoopSocket` is a TLSSocket.

    Attributes:
        handoff: the connection.
        network: its socket.
    """

    def __init__(
        self,
        handoff: Handoff,
        network: InlineRelay,
        closing: ClosePolicy = ClosePolicy.RELAXED,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Take over the connection of a hand-off.

        Args:
            handoff: its ``sock`` is `network`.
            network: without a thread.
            closing: what an end of stream without close_notify is.
            on_close: called once, when the connection has been closed.
        """
        self.handoff = handoff
        self.network = network
        self._rest = b""  # opened, and not yet received
        self._closing = closing
        self._on_close = on_close

    def settimeout(self, value: float | None) -> None:
        """Never wait, whatever is asked for."""

    def fileno(self) -> int:
        """Return the descriptor's number; -1 once it is closed."""
        return self.network.fileno()

    def getsockname(self) -> Any:
        """Return our own address."""
        return self.network.local_address

    def getpeername(self) -> Any:
        """Return the peer's address."""
        return self.network.peer_address

    # -- data

    def recv(self, bufsize: int) -> bytes:
        """Receive data, ``b""`` at the end of the stream; raises OSError only."""
        opened = self._rest or self._receive()
        self._rest = opened[bufsize:]
        return opened[:bufsize]

    def recv_into(self, buffer: WriteableBuffer) -> int:
        """Receive into a buffer, as `recv`; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)

    @property
    def is_readable(self) -> bool:
        """Whether there is more, data or the end, of which the network does not tell."""
        return bool(self._rest) or self.network.join()

    def look(self) -> None:
        """Open the rest of a message that data waits for, without receiving; raises OSError only.

        Data in front of that is kept, up to a limit: then the patience with the peer runs out.
        """
        if self.is_waiting and not self.network.join() and len(self._rest) < READ_SIZE:
            with contextlib.suppress(BlockingIOError):
                self._rest += self._receive()

    def _receive(self) -> bytes:
        room = enter()
        try:
            return bytes(room.view[: self.network.receive(room)])
        except Truncated as exc:
            if self._closing is ClosePolicy.STRICT:
                raise_os_error(exc)
            _log.info("the peer ended the stream without close_notify")
            return b""
        except (TlsifyError, OSError) as exc:
            raise_os_error(exc)
        finally:
            leave(room)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Seal data, and send what the network takes: the rest is for `flush`; raises OSError only.

        Returns:
            The number of bytes sealed.

        Raises:
            BlockingIOError: what was sealed before has to go out first.
        """
        if not self.flush() or self.is_waiting:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        piece = bytes(memoryview(data)[:PIECE])  # an error would keep a view of the buffer
        try:
            self.network.put(memoryview(piece))
        except OSError as exc:
            raise_os_error(exc)
        return len(piece)

    def send_file(self, source: int, offset: int, size: int) -> int:
        """Send some of a file, as `LoopSocket.send_file`."""
        piece = os.pread(source, min(size, PIECE), offset)
        return self.send(piece) if piece else 0

    @property
    def is_out(self) -> bool:
        """Whether the network has taken all that was sealed."""
        return not self.network.has_records

    @property
    def is_waiting(self) -> bool:
        """Whether data has to wait for the rest of a message of the peer's."""
        return self.network.is_waiting

    def flush(self) -> bool:
        """Send what is due; return whether all is out; raises OSError only."""
        try:
            return self.network.flush()
        except OSError as exc:
            raise_os_error(exc)

    # -- ends

    def shutdown(self, how: int) -> None:
        """End the sending direction with close_notify, or the receiving one, or both."""
        self.network.shutdown(how)

    def leave(self, loop: asyncio.AbstractEventLoop, tell: Callable[[], object]) -> None:
        """Tell the protocol that the connection is over: the process outlives it."""
        del loop
        tell()

    def cut(self) -> None:
        """Make every later end one without close_notify."""
        self.handoff.is_cut = True

    def abort(self) -> None:
        """Close without close_notify; sent data still arrives."""
        self.cut()
        self.close()

    def close(self) -> None:
        """Close; the last records go out in the background."""
        self.handoff.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
