"""asyncio: the handshake on the loop, a plain transport afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, NoReturn, Self

from tlsify import handshake
from tlsify.config import ClosePolicy, KtlsPolicy
from tlsify.errors import DeadlineExceeded, HandshakeError, KtlsError, TlsifyError
from tlsify.opening import Opening, closed_on_error, drop_past_keys
from tlsify.stream import TLSSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, WriteableBuffer

    from tlsify.config import ClientConfig, ServerConfig
    from tlsify.handoff import Handoff

_log = logging.getLogger("tlsify")

_ACCEPT_PAUSE = 0.1  # seconds
_CHORE_PAUSE = 600.0


async def hand_over(
    sock: socket.socket, config: ClientConfig | ServerConfig, policy: KtlsPolicy | None = None
) -> Handoff:
    """Do a handshake without blocking the loop, and hand the connection over.

    Args:
        sock: connected TCP socket, which belongs to tlsify from here on.
        config: decides the role.
        policy: when to offload; AUTO if None.

    Raises:
        As `opening.connect`.
    """
    with closed_on_error(sock):
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        opening = Opening(sock, config, policy or KtlsPolicy())
        with handshake.undelayed(sock):
            try:
                async with asyncio.timeout(config.timeout):
                    await _drive(sock, opening)
            except HandshakeError:
                await _part(sock)
                raise
            except TimeoutError as exc:
                raise handshake.too_slow(config.timeout) from exc
        handed = opening.commit()
        handed.sock.setblocking(False)  # noqa: FBT003
        return handed


async def _drive(sock: socket.socket, opening: Opening) -> None:
    loop = asyncio.get_running_loop()
    steps = handshake.conversation(opening.engine)
    step = next(steps, None)
    while step is not None:
        received = None
        try:
            if isinstance(step, int):
                received = await loop.sock_recv(sock, step)
            else:
                await loop.sock_sendall(sock, step)
        except OSError as exc:
            step = steps.throw(exc)
            continue
        try:
            step = steps.send(received)
        except StopIteration:
            return


async def _part(sock: socket.socket) -> None:
    """Do as `handshake.part`: a refused peer has to get its alert."""
    loop = asyncio.get_running_loop()
    budget = handshake.PARTING_BYTES
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(handshake.PARTING_TIME):
            while budget > 0 and (received := await loop.sock_recv(sock, budget)):
                budget -= len(received)


class LoopSocket(TLSSocket):
    """A TLSSocket in the terms of asyncio's transports, and by default of HTTP.

    A transport reports anything but an OSError as a bug of the program, with a traceback; here
    the peer's faults become connection errors.
    """

    def __init__(self, handoff: Handoff, closing: ClosePolicy = ClosePolicy.RELAXED) -> None:
        """Take over the connection of a hand-off."""
        super().__init__(handoff, closing)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive as `TLSSocket.recv`; raises OSError only."""
        try:
            return super().recv(bufsize, flags)
        except TlsifyError as exc:
            _aborted(exc)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive as `TLSSocket.recv_into`; raises OSError only."""
        try:
            return super().recv_into(buffer, nbytes, flags)
        except TlsifyError as exc:
            _aborted(exc)

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send as `TLSSocket.send`; raises OSError only."""
        try:
            return super().send(data, flags)
        except TlsifyError as exc:
            _aborted(exc)


def _aborted(exc: TlsifyError) -> NoReturn:
    _log.info("connection ended: %s", exc)
    raise ConnectionAbortedError(str(exc)) from exc


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Acceptor:
    """Accepts on a listening socket and gives each connection to an asyncio protocol.

    Handshakes run side by side on the loop, at most ``handshakes`` of them at a time, so that
    stalled peers cost nobody else more than their own place in that number.
    """

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        config: ServerConfig,
        policy: KtlsPolicy,
        *,
        handshakes: int = 1000,
    ) -> None:
        """Prepare to accept; ``async with`` begins, and ends with the listener closed."""
        self._listener = listener
        self._factory = factory
        self._config = config
        self._policy = policy
        self._slots = asyncio.Semaphore(handshakes)
        self._openings: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._chore: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Begin to accept."""
        self._listener.setblocking(False)  # noqa: FBT003
        self._accepting = asyncio.create_task(self._accept_forever())
        self._do_chores()
        return self

    def _do_chores(self) -> None:
        """Where nobody connects for long, keys must go all the same."""
        drop_past_keys()
        self._chore = asyncio.get_running_loop().call_later(_CHORE_PAUSE, self._do_chores)

    async def __aexit__(self, *_: object) -> None:
        """Accept no more; handshakes under way are given up."""
        if self._chore is not None:
            self._chore.cancel()
        if self._accepting is not None:
            await _end(self._accepting)
        # By now every opening has begun: one cancelled before would not close its socket.
        await _end(*self._openings)
        self._listener.close()

    async def _accept_forever(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                sock = await self._accept()
            except OSError as exc:
                # Out of descriptors, or the peer was gone already: others must not suffer.
                self._slots.release()
                _log.warning("accept: %s", exc)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            task = asyncio.create_task(self._open(sock))
            self._openings.add(task)
            task.add_done_callback(self._opened)

    async def _accept(self) -> socket.socket:
        """Accept one connection: ``loop.sock_accept`` may lose it if it is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(BlockingIOError):
                return self._listener.accept()[0]
            readable = asyncio.Event()
            loop.add_reader(self._listener, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._listener)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._openings.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bug in a handshake", exc_info=error)

    async def _open(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            handed = await hand_over(sock, self._config, self._policy)
            await loop.connect_accepted_socket(self._factory, LoopSocket(handed))
        except (HandshakeError, DeadlineExceeded, KtlsError, OSError) as exc:
            _log.info("connection refused: %s", exc)
