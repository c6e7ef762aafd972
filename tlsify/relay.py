"""Fallback: pump plaintext socketpair <-> Tunnel."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import threading
from contextlib import closing, suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from tlsify.errors import HandshakeError
from tlsify.tls.explain import truncated
from tlsify.tls.room import Room
from tlsify.tls.tunnel import ROOM_BEYOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.tls.negotiated import Resumable
    from tlsify.tls.tunnel import Tunnel

# What one read takes: much, since it costs a turn, and no more than stays in a processor's cache.
_READ_SIZE = 2**18
_ROOM_SIZE = _READ_SIZE + ROOM_BEYOND
# How much of what OpenSSL says by itself may wait for a peer that does not read.
_MAX_ANSWERS = 2**16
# Rooms that are kept for the next turn, whoever's it is.
_SPARE_ROOMS = 8
# How long the last bytes of a program that has closed its end may take without any progress.
_LINGER = 30.0


class _Flow(Enum):
    """One direction: taken in, no longer taken in but not yet all passed on, over."""

    READING = "reading"
    DRAINING = "draining"
    DONE = "done"


_rooms: list[Room] = []


def _enter() -> Room:
    try:
        return _rooms.pop()
    except IndexError:
        return Room(_ROOM_SIZE)


def _leave(room: Room) -> None:
    if len(_rooms) < _SPARE_ROOMS:
        _rooms.append(room)


class _Load:
    """Bytes on their way to one side. There is a room for them as long as there are any."""

    def __init__(self) -> None:
        self._room: Room | None = None
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def take_on(self, fill: Callable[[Room], int]) -> None:
        """Have some written, once there are none; the call is told where, and tells how many."""
        room = _enter()
        self._start, self._end = 0, fill(room)
        if self._end:
            self._room = room
        else:
            _leave(room)

    def send(self, sock: socket.socket) -> None:
        """Send all.

        Raises:
            BlockingIOError: the rest has to wait.
            OSError: nobody is there any more.
        """
        while self._room is not None:
            self._start += sock.send(self._room.view[self._start : self._end])
            if self._start == self._end:
                self.drop()

    def drop(self) -> None:
        """Forget what there is."""
        if self._room is not None:
            _leave(self._room)
        self._room = None
        self._start = self._end = 0


class Relay:
    """One connection that stays in userspace, with a socketpair for the program.

    The program's end behaves as a kTLS socket does: it speaks plaintext, backpressure reaches the
    peer, ``shutdown(SHUT_WR)`` sends close_notify, and the end of the stream is the peer's. What
    a descriptor alone cannot tell, truncation, is in ``failure``.
    """

    def __init__(
        self,
        sock: socket.socket,
        tunnel: Tunnel,
        keep: Callable[[Resumable], None] | None = None,
    ) -> None:
        """Take a connected socket and its tunnel; ``start`` begins to pump.

        Args:
            sock: connected; the relay closes it.
            tunnel: fresh.
            keep: takes what a later connection may resume with; it must not raise.

        Raises:
            OSError: no descriptor is left for the socketpair.
        """
        self._network = sock
        self._tunnel = tunnel
        self._keep = keep
        # What goes together was written together, or met in the socketpair: waiting for more would
        # only add the peer's delayed acknowledgements to an answer that comes in two pieces.
        self.set_tcp_option(socket.TCP_NODELAY, 1)
        # None for a connection that is broken already; the pump finds out why.
        self.local_address = _address(sock.getsockname)
        self.peer_address = _address(sock.getpeername)
        self.program_end, self._program = socket.socketpair()
        for end in (self.program_end, self._program):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _READ_SIZE)
        self._network.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._program.setblocking(False)  # noqa: FBT003
        self._to_network, self._to_program = _Load(), _Load()
        self._outbound = self._inbound = _Flow.READING
        self._program_gone = self._abandoned = False
        self.failure: HandshakeError | OSError | None = None
        # Whether the peer's direction has ended, in which case `failure` says how; and whether all
        # of the connection has.
        self.is_settled = self.is_over = False
        self._watcher: Callable[[], None] = lambda: None
        self._send_error: OSError | None = None
        # Not a daemon, whoever starts it: the last bytes must be out before the interpreter ends.
        self._thread = threading.Thread(target=self._run, name="tlsify-relay", daemon=False)

    def start(self) -> None:
        """Begin to pump, in a thread."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the connection is over; tells whether it is."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def set_tcp_option(self, *arguments: Any) -> None:
        """Set one of TCP's options on the connection, unless it has ended."""
        with suppress(OSError):
            self._network.setsockopt(socket.IPPROTO_TCP, *arguments)

    def abandon(self) -> None:
        """Have the end of the program's data be no orderly one: the peer sees truncation."""
        self._abandoned = True

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have something called whenever `is_settled` or `is_over` has become true.

        Args:
            watcher: called at once, too, and in the relay's thread; it must not raise, nor take
                its time, since what it is told of waits for it.
        """
        self._watcher = watcher
        watcher()

    def under_way(self) -> int:
        """Tell how many bytes of what the program has sent the peer has not acknowledged.

        Records and plaintext are added up: it tells whether there are fewer than before.
        """
        waiting = len(self._to_network)
        for sock, request in ((self._program, termios.FIONREAD), (self._network, termios.TIOCOUTQ)):
            with suppress(OSError, ValueError):  # closed at the end
                (count,) = struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))
                waiting += count
        return waiting

    def _run(self) -> None:
        try:
            self._pump()
        finally:
            # Whoever has this object may keep it, and with it 40 KiB that nobody needs any more.
            self._tunnel.release()
            self.is_over = True
            self._watcher()

    def _pump(self) -> None:
        with closing(self._network), closing(self._program):
            self._keep_sessions()
            self._flush()
            while self._outbound is not _Flow.DONE or self._inbound is not _Flow.DONE:
                events = self._wait()
                if not events:
                    return
                self._act(
                    events.get(self._network.fileno(), 0), events.get(self._program.fileno(), 0)
                )
                self._flush()

    def _wait(self) -> dict[int, int]:
        """Wait for what can be acted on; empty if a closed program's last bytes do not get out.

        A side without anything to do is left out: poll reports hang-ups of whatever it is given,
        and would spin.
        """
        poller = select.poll()
        from_network = (
            self._inbound is _Flow.READING
            and not self._to_program
            # Who asks for a new key, again and again, has to take the answers.
            and not (self._to_network and self._tunnel.waiting > _MAX_ANSWERS)
        )
        from_program = self._outbound is _Flow.READING and not self._to_network
        network = _mask(read=from_network, write=bool(self._to_network))
        if network:
            poller.register(self._network, network)
        if from_program or self._inbound is not _Flow.DONE:
            program = _mask(read=from_program, write=bool(self._to_program))
            poller.register(self._program, program)
        return dict(poller.poll(_LINGER * 1000 if self._program_gone else None))

    def _act(self, network: int, program: int) -> None:
        if program & (select.POLLHUP | select.POLLERR):
            # Nobody will read what the peer still sends.
            self._program_gone = True
            self._inbound = _Flow.DONE
            self._to_program.drop()
        if program & ~select.POLLOUT and self._outbound is _Flow.READING and not self._to_network:
            self._take_from_program()
        if network & ~select.POLLOUT and self._inbound is _Flow.READING and not self._to_program:
            self._take_from_network()

    def _take_from_program(self) -> None:
        room = _enter()
        try:
            size = self._program.recv_into(room.view, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            self._to_network.take_on(partial(self._tunnel.send_into, room.view[:size]))
        else:
            self._outbound = _Flow.DRAINING
            if not self._abandoned:
                self._tunnel.close()
        _leave(room)

    def _take_from_network(self) -> None:
        room = _enter()
        try:
            size = self._network.recv_into(room.view, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            self._fail(exc)
            return
        if not size:
            # A reset is told once, and it may have been to a send.
            self._fail(self._send_error or truncated())
            return
        try:
            self._to_program.take_on(partial(self._tunnel.receive, room.view[:size]))
            # Once more, for the error that may stand behind what this gave.
            self._tunnel.receive(b"", room)
        except HandshakeError as error:
            self._fail(error)
        _leave(room)
        self._keep_sessions()
        if self._tunnel.peer_closed:
            self._inbound = _Flow.DRAINING
            self._settle()

    def _keep_sessions(self) -> None:
        if self._keep is not None:
            for found in self._tunnel.take_sessions():
                self._keep(found)

    def _fail(self, failure: HandshakeError | OSError) -> None:
        """End both directions; what came before the failure is still passed on."""
        self.failure = failure
        self._inbound = self._outbound = _Flow.DRAINING
        self._settle()

    def _settle(self) -> None:
        self.is_settled = True
        self._watcher()

    def _flush(self) -> None:
        try:
            while self._outbound is not _Flow.DONE:
                self._to_network.send(self._network)
                # Beside data, an alert or the answer to a KeyUpdate.
                self._to_network.take_on(self._tunnel.output_into)
                if not self._to_network:
                    self._outbound = _end(self._network, self._outbound)
                    break
        except BlockingIOError:
            pass
        except OSError as exc:
            self._send_error = exc
            self._to_network.drop()
            self._outbound = _Flow.DONE
        try:
            self._to_program.send(self._program)
            self._inbound = _end(self._program, self._inbound)
        except BlockingIOError:
            pass
        except OSError:
            self._to_program.drop()
            self._inbound = _Flow.DONE


def _address(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except OSError:
        return None


def _mask(*, read: bool, write: bool) -> int:
    return (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)


def _end(sock: socket.socket, flow: _Flow) -> _Flow:
    """End a flow that has been drained, with a half-close.

    Raises:
        OSError: nobody is there any more.
    """
    if flow is not _Flow.DRAINING:
        return flow
    sock.shutdown(socket.SHUT_WR)
    return _Flow.DONE
