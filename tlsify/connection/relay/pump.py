"""Fallback: pump plaintext socketpair <-> Tunnel."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from tlsify.connection import exit as interpreter
from tlsify.connection.ending import forks, patience
from tlsify.connection.ending.linger import never_wait
from tlsify.connection.event_thread import Interest
from tlsify.connection.relay.loads import READ_SIZE, Flow, Load, end, mask, program_pair
from tlsify.connection.relay.threads import failed, run
from tlsify.connection.relay.verdict import Verdict
from tlsify.errors import DeadlineExceeded, RekeyUnsupported, TlsifyError, Truncated
from tlsify.metrics.counters import Event, count
from tlsify.tls.explain import truncated, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.tls.keyed_tunnel import KeyedTunnel
    from tlsify.tls.negotiated import Resumable
    from tlsify.tls.tunnel import Tunnel

# Seconds between checks, at the interpreter's end, for other processes with the program's end.
_LOOK = 0.5
# Bytes of OpenSSL's own answers that may wait for a peer that does not read.
_MAX_ANSWERS = 2**16
_UNREAD = "the peer's program hangs, or reads too slowly: see its log"


class Relay:
    """One connection that stays in userspace, with a socketpair for the program.

    The program's end behaves as a kTLS socket does: it speaks plaintext, backpressure reaches the
    peer, ``shutdown(SHUT_WR)`` sends close_notify, and the end of the stream is the peer's.
    Truncation is in ``failure``. A program's end that is merely lost is a cut (`end_in_order`).
    """

    _is_remainder = False  # of a connection whose failure has been counted

    def __init__(
        self,
        sock: socket.socket,
        tunnel: Tunnel | KeyedTunnel,
        keep: Callable[[Resumable], None] | None = None,
    ) -> None:
        """Take over a connected socket and its tunnel; ``start`` begins to pump.

        Args:
            sock: connected; the relay closes it.
            tunnel: fresh.
            keep: receives sessions for later connections; it must not raise.

        Raises:
            OSError: no descriptor or memory is to be had; nothing is left open but the socket.
        """
        self.network = sock
        self._tunnel = tunnel
        self._keep = keep
        # Nagle would add the peer's delayed acknowledgement to an answer in two pieces.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # None for a connection that is already broken; the pump finds out why.
        self.local_address = forks.address(sock.getsockname)
        self.peer_address = forks.address(sock.getpeername)
        self._verdict = Verdict()
        self.is_lost = self._verdict.is_lost
        program_end, self._program = program_pair()
        self._ends = [program_end]
        self._inode = forks.inode(program_end)
        self.dies_with_process = forks.is_short_lived(sock, is_client=tunnel.is_client)
        self.network.settimeout(0)
        self._program.settimeout(0)
        self.to_network, self._to_program = Load(), Load()  # `received`: from the program
        self._outbound = self._inbound = Flow.READING
        self._program_gone = self._half_closed = False
        self._asked: Callable[[], bool] = lambda: False
        self._patience: patience.Patience | None = None
        self._failure: TlsifyError | OSError | None = None
        # Whether the peer's direction has ended, as `failure` says; and whether all has.
        self.is_settled = self.is_over = False
        self._watcher: Callable[[], None] = lambda: None
        self._send_error: OSError | None = None
        self._delivery: patience.Patience | None = None
        self._running = threading.Lock()  # until all is over

    @property
    def failure(self) -> TlsifyError | OSError | None:
        """Return the error that ended the peer's direction; None if there is none."""
        return self._failure if self._verdict.is_ours else self._verdict.failure()

    def start(self) -> socket.socket:
        """Begin to pump, in a thread; return the program's end, which the caller owns.

        Raises:
            OSError, RuntimeError: no descriptor, memory or thread; only the socket is left open.
        """
        self._running.acquire()
        try:
            run(self)
        except (OSError, RuntimeError, MemoryError):
            self._running.release()
            for each in (self._program, *self._ends):
                each.close()
            raise
        return self._ends.pop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the connection is over; return whether it is."""
        if is_over := self._running.acquire(timeout=-1 if timeout is None else timeout):
            self._running.release()
        return is_over

    def end_in_order(self) -> None:
        """Make every later end of the program's data a clean one, with close_notify."""
        self._verdict.end_in_order()

    def ask(self, asked: Callable[[], bool]) -> None:
        """Set a further check of whether a lost program's end is a clean one."""
        self._asked = asked

    def watch(self, watcher: Callable[[], None]) -> None:
        """Set a callback for now, and for when `is_settled` or `is_over` becomes true.

        It must neither raise nor wait: other connections do meanwhile.
        """
        self._watcher = watcher
        watcher()

    def under_way(self) -> int:
        """Return how many bytes, records and plaintext, the peer has yet to acknowledge.

        Data in a UNIX domain socket counts as the peer's, as data that its TCP has received does.
        """
        waiting = len(self.to_network) + self._tunnel.held
        with suppress(OSError, ValueError):  # closed at the end
            waiting += patience.unread(self._program)
            waiting += patience.unacknowledged_by_tcp(self.network)
        return waiting

    def progress(self) -> patience.Progress:
        """Return the connection's progress by TCP's counts; without TCP, by the relay's own.

        Raises:
            OSError: it is over.
        """
        sent, received = self.to_network.sent, self._to_program.received
        has_ended = self._outbound is Flow.DONE and not self.is_settled
        ours = patience.Progress.told_by_carrier(sent, received, has_ended=has_ended)
        return patience.progress_if_tcp(self.network) or ours

    def turn(self, events: dict[int, int]) -> bool:
        """Pass data on; return whether the connection is over and all data has arrived."""
        return self._pump(events) if self._delivery is None else self._is_delivered()

    def close(self) -> None:
        """Close both sides, and call the watcher."""
        never_wait(self.network)
        try:
            with closing(self.network), closing(self._program):
                self._tunnel.release()  # 40 KiB, even while references to this object remain
        finally:
            self.is_over = True
            try:
                self._watcher()
            finally:
                self._running.release()

    def abandon(self, exc: BaseException) -> None:
        """End both sides without a clean end, after a failure of the relay."""
        failure = failed(exc)
        if self._failure is None:
            self._note(failure)

    def leave(self) -> None:
        """Close both sides in a forked child: they would hide the parent's end; free `join`."""
        self.network.close()
        self._program.close()
        self._running.release()

    def _pump(self, events: dict[int, int]) -> bool:
        if self._patience is not None and self._patience.is_over():
            self._give_up()  # also of a peer that sends on and on, and takes nothing
            return True
        self._act(events.get(self.network.fileno(), 0), events.get(self._program.fileno(), 0))
        if self._keep is not None:
            for found in self._tunnel.take_sessions():
                self._keep(found)
        self._flush()
        if self._outbound is not Flow.DONE or self._inbound is not Flow.DONE:
            return False
        self._delivery = patience.Patience(self.network)
        return self._is_delivered()

    def _give_up(self) -> None:
        if self._tunnel.is_waiting:
            self._note(unfinished())
        elif not self.is_settled:
            self._note(DeadlineExceeded("the peer has not read the sent data", hint=_UNREAD))

    def interest(self) -> Interest:
        """Return the events that can be acted on.

        A side without anything to do is left out: its hang-up would wake the thread for ever.
        """
        if self._delivery is not None:
            return Interest({self.network.fileno(): select.POLLIN}, self._delivery.pause())
        if self._program_gone and self._takes_from_program():
            return Interest({}, 0)  # no event will announce the rest of its data
        events = {}
        from_network = (
            self._inbound in {Flow.READING, Flow.DISCARDING}
            and not self._to_program
            # A peer that requests new keys again and again has to read the answers.
            and not (self.to_network and self._tunnel.waiting > _MAX_ANSWERS)
        )
        if network := mask(read=from_network, write=bool(self.to_network)):
            events[self.network.fileno()] = network
        from_program = self._takes_from_program()
        if not self._program_gone and (from_program or self._inbound is not Flow.DONE):
            program = mask(read=from_program, write=bool(self._to_program))
            if self._tunnel.is_waiting and not self._half_closed:
                program |= select.POLLRDHUP  # an end that cannot be read yet
            events[self._program.fileno()] = program
        if (left := self._patience_now()) is not None:
            return Interest(events, left.pause())
        return Interest(events, _LOOK if interpreter.has_begun() else None)

    def _takes_from_program(self) -> bool:
        return self._outbound is Flow.READING and not (self._tunnel.is_waiting or self.to_network)

    def _patience_now(self) -> patience.Patience | None:
        """Return the patience with the peer, if the relay waits for the peer alone."""
        is_ending = self._program_gone or (
            self._tunnel.is_waiting and (self._half_closed or self._outbound is Flow.DRAINING)
        )
        if not is_ending:
            self._patience = None
        elif self._patience is None:
            self._patience = patience.Patience(self.network)
        return self._patience

    def _act(self, network: int, program: int) -> None:
        ends = interpreter.has_begun() and not self._program_gone
        if ends and not forks.is_left_to_others(self._inode):
            # All that the program has sent is in the socketpair by now, or was refused.
            with suppress(OSError):
                self._program.shutdown(socket.SHUT_RD)
            if not self.is_settled:  # for a thread that goes on receiving
                self._failure = interpreter.ended()
            self._lose_program()
        self._half_closed |= bool(program & select.POLLRDHUP)
        if program & (select.POLLHUP | select.POLLERR):
            self._lose_program()
        if (program & ~select.POLLOUT or self._program_gone) and self._takes_from_program():
            self._take_from_program()
        takes = self._inbound in {Flow.READING, Flow.DISCARDING} and not self._to_program
        if network & ~select.POLLOUT and takes:
            self._take_from_network()

    def _lose_program(self) -> None:
        """Stop delivering to a lost program; go on receiving until the peer's end is known."""
        self._program_gone = True
        self._drop_inbound()

    def _drop_inbound(self) -> None:
        self._to_program.drop()
        if self._inbound is Flow.READING:
            self._inbound = Flow.DISCARDING
        elif self._inbound is Flow.DRAINING:
            self._inbound = Flow.DONE

    def _take_from_program(self) -> None:
        try:
            size = self.to_network.receive(self._program, self._tunnel.send_into)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            self._look_at_tunnel()
        else:
            self._end_outbound()

    def _end_outbound(self) -> None:
        self._outbound = Flow.DRAINING
        # A half-close is a deliberate end; a program that is merely gone may have been cut off.
        if not self._program_gone or self._verdict.in_order or self._asked():
            self._tunnel.close()
            self._look_at_tunnel()
        else:
            self._tunnel.drop()

    def _take_from_network(self) -> None:
        try:
            size = self._to_program.receive(self.network, self._tunnel.receive)
        except BlockingIOError:
            return
        except OSError as exc:
            self._fail(exc)
            return
        if not size:
            self._end_inbound()
            return
        if self._inbound is Flow.DISCARDING:
            self._to_program.drop()
        self._look_at_tunnel()

    def _look_at_tunnel(self) -> None:
        """Check whether the peer's direction has ended, or the whole connection."""
        if self._tunnel.failure is not None:
            if not self.is_settled:
                self._fail(self._tunnel.failure)
        elif self._tunnel.peer_closed and not self.is_settled:
            self._note(None)
        if self.is_settled and self._tunnel.is_waiting:  # for a message that will never come
            self._take_no_more()

    def _end_inbound(self) -> None:
        """The peer's stream has ended without close_notify: its direction, not ours."""
        if self._send_error is not None:  # a reset is reported once, perhaps to a send
            self._fail(self._send_error)
            return
        self._note(truncated())
        self._look_at_tunnel()

    def _fail(self, failure: TlsifyError | OSError) -> None:
        """End both directions; data from before the failure is still passed on."""
        if isinstance(failure, RekeyUnsupported) and not self._is_remainder:
            count(Event.KEY_LIMIT_REACHED)
        self._note(failure)
        self._take_no_more()

    def _take_no_more(self) -> None:
        """End our direction; a peer that reads nothing must not hold up the program's sends."""
        self._outbound = Flow.DRAINING if self._outbound is not Flow.DONE else Flow.DONE
        self._tunnel.drop()
        with suppress(OSError):
            self._program.shutdown(socket.SHUT_RD)

    def _note(self, failure: TlsifyError | OSError | None) -> None:
        """Store how the peer's direction has ended, and call the callback."""
        self._failure = failure
        self._verdict.give(failure, cut=isinstance(failure, Truncated))
        self._inbound = Flow.DONE if self._program_gone else Flow.DRAINING
        self.is_settled = True
        self._watcher()

    def _flush(self) -> None:
        try:
            while self._outbound is not Flow.DONE:
                self.to_network.send(self.network)
                # Beside data, an alert or the answer to a KeyUpdate.
                self.to_network.take_on(self._tunnel.output_into)
                if not self.to_network:
                    if not self._tunnel.is_waiting:
                        self._outbound = end(self.network, self._outbound)
                    break
        except BlockingIOError:
            pass
        except OSError as exc:
            self._send_error = exc
            self.to_network.drop()
            self._tunnel.drop()
            self._outbound = Flow.DONE
        if self._program_gone and self._outbound is Flow.DONE:
            self._inbound = Flow.DONE
        try:
            self._to_program.send(self._program)
            self._inbound = end(self._program, self._inbound)
        except BlockingIOError:
            pass
        except OSError:  # no reader is left; epoll reports whether a writer is
            self._drop_inbound()

    def _is_delivered(self) -> bool:
        """Return whether the peer's TCP has all data, or has ended: closing earlier might reset."""
        try:
            if not patience.unacknowledged(self.network) or self._delivery is None:
                return True
            return self._delivery.is_over() or not self._take_last()
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _take_last(self) -> int:
        """Receive input while the last bytes are delivered: an alert explains a failure."""
        if self.is_settled:
            return len(self.network.recv(READ_SIZE, socket.MSG_DONTWAIT))
        size = self._to_program.receive(self.network, self._tunnel.receive)
        self._to_program.drop()
        self._look_at_tunnel()
        return size
