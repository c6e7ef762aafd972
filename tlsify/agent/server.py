"""The agent's process: receive a connected socket, do its handshake, send the outcome."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tlsify.agent import wire
from tlsify.agent.config_cache import policy
from tlsify.agent.errors import describe
from tlsify.agent.fields import Message
from tlsify.connection.establish import PendingConnection, drop_past_keys
from tlsify.connection.exit import await_carriers
from tlsify.connection.relay.pump import Relay
from tlsify.connection.setup import handshake
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.errors import SHORTAGES, AgentError, ConfigError, ResourceError, TlsifyError
from tlsify.keys import wipe
from tlsify.metrics.counters import BEAT_INTERVAL, beat
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.agent.config_cache import Configs
    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")

# Seconds that a requester may take for its request, which is one message.
_REQUEST_TIME = 5.0
# Threads that wait for the next session rather than end.
_SPARE = 4
_PAUSE = 0.1  # seconds to wait if descriptors or memory run out
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signal to the main thread that a session has begun, and no further thread can start.
_NO_THREAD_WAITS = signal.SIGUSR1
M = TypeVar("M", bound=Message)
_SCARCE = {*SHORTAGES, errno.EAGAIN}


class Worker:
    """One process's share of an agent: a thread for each session that is in its handshake.

    Threads, for `handshake.run` to wait in: OpenSSL computes without the interpreter's lock. At
    most ``sessions`` of them at a time; beyond that sessions wait where they came from, for this
    process or another. A relayed connection has a thread of its own and does not count.
    """

    def __init__(self, source: socket.socket, configs: Configs, sessions: int) -> None:
        """Prepare to serve.

        Args:
            source: shared with other processes; listening, or our end of an inherited pair.
            configs: what requests become.
            sessions: limit on simultaneous handshakes.
        """
        self._source = source
        self._is_pair = not source.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        self._configs = configs
        self._sessions = sessions
        self._changed = threading.Condition()
        self._waiting = self._busy = 0
        self._is_short = False
        self._main = 0

    def run(self, ready: Callable[[], None], stop: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT, or until the pair is closed; then finish open sessions.

        Args:
            ready: called once sessions are taken.
            stop: called then, to end the arrival of sessions and wake the waiting threads.

        Raises:
            ResourceError: there is not one thread to be had.
        """
        self._main = threading.get_ident()
        # Blocked for good: a second signal must not interrupt an orderly end.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP_SIGNALS, _NO_THREAD_WAITS))
        with self._changed:
            self._add_thread()
        beat()
        ready()
        patience = BEAT_INTERVAL
        while (found := self._told(patience)) is None or found.si_signo == _NO_THREAD_WAITS:
            drop_past_keys()
            patience = BEAT_INTERVAL if self._ensure_waiting() else _PAUSE
            beat()
        stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)
        await_carriers()  # the threads of relays

    @staticmethod
    def _told(patience: float) -> signal.struct_siginfo | None:
        return signal.sigtimedwait((*_STOP_SIGNALS, _NO_THREAD_WAITS), patience)

    def _add_thread(self) -> None:
        """Start one more thread that waits for sessions; the lock must be held.

        Raises:
            ResourceError: no thread is available.
        """
        # A daemon: a waiting thread has no session to finish.
        thread = threading.Thread(target=self._serve, name="tlsify-agent", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as exc:
            raise ResourceError(exc, "cannot start a thread for the next session") from exc
        self._waiting += 1

    def _ensure_waiting(self) -> bool:
        """Make sure that a thread waits for the next session, if more are allowed."""
        with self._changed:
            if not self._waiting and self._busy < self._sessions:
                try:
                    self._add_thread()
                except ResourceError as exc:
                    if not self._is_short:
                        _log.warning("sessions wait for others to end: %s", exc)
                    self._is_short = True
                    return False
                self._is_short = False
            return True

    def _serve(self) -> None:
        """Serve one session after the other, and see that another thread waits meanwhile."""
        goes_on = True
        while goes_on and (channel := self._next()) is not None:
            with self._changed:
                self._waiting -= 1
                self._busy += 1
            try:
                if not self._ensure_waiting():
                    signal.pthread_kill(self._main, _NO_THREAD_WAITS)  # which tries again and again
                serve(channel, self._configs)
            except Exception:  # noqa: BLE001 - there are other sessions than this one
                _log.exception("bug in the agent")
            finally:
                with self._changed:
                    self._busy -= 1
                    goes_on = self._waiting < _SPARE
                    self._waiting += goes_on
                    self._changed.notify_all()
        if goes_on:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()

    def _next(self) -> socket.socket | None:
        """Wait for a session; return its channel, or None once there will be no more."""
        while True:
            try:
                return self._invited() if self._is_pair else self._accepted()
            except AgentError as exc:
                _log.warning("refused: %s", exc)
            except (OSError, MemoryError) as exc:
                if isinstance(exc, OSError) and exc.errno not in _SCARCE:
                    return None
                _log.warning("accept() failed, retrying in 0.1 s: %s", exc)
                time.sleep(_PAUSE)

    def _accepted(self) -> socket.socket:
        """Accept a requester.

        Raises:
            AgentError: it is another user's.
            OSError: EINVAL once accepting has ended.
        """
        channel, _ = self._source.accept()
        try:
            if (uid := scm_rights.peer_uid(channel)) != os.geteuid():
                raise AgentError(f"a requester of user {uid}", untouched=True)
        except (AgentError, OSError):
            channel.close()
            raise
        return channel

    def _invited(self) -> socket.socket | None:
        """Receive a channel from the pair; None once its other end is closed.

        Raises:
            AgentError: the message is not that.
        """
        room = bytearray(wire.Open.limit)  # other workers may take a message that is looked at
        size, descriptor = scm_rights.receive_into(self._source, room)
        if not size:
            os.kill(os.getpid(), signal.SIGTERM)  # what `run` waits for
            return None
        return _with_socket(lambda: wire.decode(room[:size], wire.Open), descriptor)[1]


def serve(channel: socket.socket, configs: Configs) -> None:
    """Serve one session: one request, one reply, and what becomes of a relay.

    Args:
        channel: the requester's; closed at the end, or along with the relay.
        configs: what requests become.
    """
    relay = None
    try:
        try:
            relay = _answer(channel, configs)
        except (TlsifyError, OSError) as exc:
            _log.info("no connection: %s", exc)
            _tell(channel, exc, wire.Failed)
        except Exception as exc:  # noqa: BLE001 - the agent has other sessions than this one
            _log.exception("bug in the agent")
            bug = TlsifyError(f"unexpected {type(exc).__name__} in the agent")
            _tell(channel, bug, wire.Failed)
    finally:
        if relay is None:
            channel.close()
        else:
            relay.watch(_Report(channel, relay))


def _answer(channel: socket.socket, configs: Configs) -> Relay | None:
    """Handle the request; return the relay, if there is one."""
    channel.settimeout(_REQUEST_TIME)
    try:
        message, descriptor = scm_rights.receive(channel, wire.MAX_REQUEST)
        request, sock = _with_socket(lambda: wire.decode_request(bytes(message)), descriptor)
    except AgentError as exc:
        exc.untouched = True
        raise
    if _is_gone(channel):  # and has given up, or does it by itself
        sock.close()
        return None
    handed = _shake_hands(sock, request, configs)
    if _is_gone(channel):
        handed.close()
        return None
    return _reply(channel, handed)


def _shake_hands(sock: socket.socket, request: wire.Request, configs: Configs) -> Handoff:
    with contextlib.ExitStack() as stack:
        stack.enter_context(closed_on_error(sock))
        if sock.type != socket.SOCK_STREAM:
            raise ConfigError("the socket is no stream", hint="pass a connected TCP socket")
        config, wanted = configs.find(request), policy(request)
        sock.settimeout(None)
        opening = stack.enter_context(PendingConnection(sock, config, wanted))
        handshake.run(sock, opening.engine, request.timeout)
        return opening.commit()


def _reply(channel: socket.socket, handed: Handoff) -> Relay | None:
    """Return the outcome away, and with it the connection; return the relay if there is one."""
    agreed = handed.negotiated
    facts: dict[str, Any] = {
        "suite": agreed.suite.value.number,
        "alpn": agreed.alpn,
        "server_name": agreed.server_name,
        "group": agreed.group,
        "resumed": agreed.resumed,
        "max_fragment_length": agreed.max_fragment_length,
    }
    relay = handed.relay
    if not isinstance(relay, Relay) or handed.reason is None:
        descriptor, state = handed.detach()
        message = bytearray()
        try:
            message = wire.encode(wire.Kernel(state=state, **facts))
            scm_rights.send(channel, message)
        finally:
            os.close(descriptor)
            wipe(state, message)
        return None
    code, sentence, hint = handed.reason
    told = wire.Relayed(
        code=code, sentence=sentence, hint=hint, certificate=agreed.certificate, **facts
    )
    relay.ask(partial(_ends_in_order, channel))  # before the program's end leaves this process
    with handed.sock:
        scm_rights.send(channel, wire.encode(told), handed.sock.fileno())
    return relay


def _ends_in_order(channel: socket.socket) -> bool:
    """Return whether the requester has declared a clean end; a lost one may be a cut."""
    for _ in range(2):
        try:
            return channel.recv(len(wire.IN_ORDER), socket.MSG_DONTWAIT) == wire.IN_ORDER
        except ConnectionResetError:
            continue  # ECONNRESET, for our own unread message, comes once, before theirs
        except OSError:
            break
    return False


class _Report:
    """Reports the end of a relayed connection to the requester, as soon as it is known."""

    def __init__(self, channel: socket.socket, relay: Relay) -> None:
        self._channel = channel
        self._relay = relay
        self._lock = threading.Lock()
        self._told = False

    def __call__(self) -> None:
        with self._lock:
            if not self._told and (self._relay.is_settled or self._relay.is_over):
                self._told = True
                _tell(self._channel, self._relay.failure, wire.Ended)
            if self._relay.is_over:
                self._channel.close()


def _tell(
    channel: socket.socket,
    error: TlsifyError | OSError | None,
    form: type[wire.Failed | wire.Ended],
) -> None:
    with contextlib.suppress(OSError):  # the requester is gone
        scm_rights.send(channel, wire.encode(describe(error, form)))


def _is_gone(channel: socket.socket) -> bool:
    poller = select.poll()
    poller.register(channel, 0)  # hang-ups alone
    return bool(poller.poll(0))


def _with_socket(decode: Callable[[], M], descriptor: int | None) -> tuple[M, socket.socket]:
    """Read a message that has to come with a socket.

    Raises:
        AgentError: it is another one, or came without; nothing is left open.
    """
    if descriptor is None:
        raise AgentError("a message came without its descriptor", untouched=True)
    sock = scm_rights.as_socket(descriptor)
    try:
        return decode(), sock
    except AgentError:
        sock.close()
        raise
