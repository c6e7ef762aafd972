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
from typing import TYPE_CHECKING, Any

from tlsify.errors import HandshakeError
from tlsify.tls.explain import truncated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.tls.negotiated import Resumable
    from tlsify.tls.tunnel import Tunnel

_READ_SIZE = 2**16
_BUFFER_LIMIT = 2**18
# How long the last bytes of a program that has closed its end may take without any progress.
_LINGER = 30.0


class _Flow(Enum):
    """One direction: taken in, no longer taken in but not yet all passed on, over."""

    READING = "reading"
    DRAINING = "draining"
    DONE = "done"


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
        # None for a connection that is broken already; the pump finds out why.
        self.local_address = _address(sock.getsockname)
        self.peer_address = _address(sock.getpeername)
        self.program_end, self._program = socket.socketpair()
        self._network.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._program.setblocking(False)  # noqa: FBT003
        self._to_network = bytearray(tunnel.output())
        self._to_program = bytearray()
        self._outbound = self._inbound = _Flow.READING
        self._program_gone = False
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
        from_network = self._inbound is _Flow.READING and len(self._to_program) < _BUFFER_LIMIT
        from_program = self._outbound is _Flow.READING and len(self._to_network) < _BUFFER_LIMIT
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
            self._to_program.clear()
        if program and self._outbound is _Flow.READING:
            self._take_from_program()
        if network and self._inbound is _Flow.READING:
            self._take_from_network()

    def _take_from_program(self) -> None:
        try:
            plaintext = self._program.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            plaintext = b""
        if plaintext:
            self._tunnel.send(plaintext)
        else:
            self._outbound = _Flow.DRAINING
            self._tunnel.close()
        self._to_network += self._tunnel.output()

    def _take_from_network(self) -> None:
        try:
            records = self._network.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            self._fail(exc)
            return
        if not records:
            # A reset is told once, and it may have been to a send.
            self._fail(self._send_error or truncated())
            return
        try:
            # Once more, for the error that may stand behind what this gave.
            for piece in (records, b""):
                self._to_program += self._tunnel.receive(piece)
        except HandshakeError as error:
            self._fail(error)
        self._keep_sessions()
        if self._tunnel.peer_closed:
            self._inbound = _Flow.DRAINING
            self._settle()
        self._to_network += self._tunnel.output()  # an alert, or the answer to a KeyUpdate

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
            self._outbound = _pass_on(self._network, self._to_network, self._outbound)
        except OSError as exc:
            self._send_error = exc
            self._to_network.clear()
            self._outbound = _Flow.DONE
        try:
            self._inbound = _pass_on(self._program, self._to_program, self._inbound)
        except OSError:
            self._to_program.clear()
            self._inbound = _Flow.DONE


def _address(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except OSError:
        return None


def _mask(*, read: bool, write: bool) -> int:
    return (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)


def _pass_on(sock: socket.socket, pending: bytearray, flow: _Flow) -> _Flow:
    """Send as much as fits; a flow that has been drained ends with a half-close.

    Raises:
        OSError: nobody is there any more.
    """
    if flow is _Flow.DONE:
        return flow
    try:
        while pending:
            del pending[: sock.send(pending)]
        if flow is _Flow.READING:
            return flow
        sock.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        return flow
    return _Flow.DONE
