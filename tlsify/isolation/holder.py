"""A key holder: a process that does handshakes for others, and touches no connection."""

from __future__ import annotations

import logging
import select
import socket
import time
from typing import TYPE_CHECKING

from tlsify.errors import AgentError, PeerMisbehaved, TlsifyError
from tlsify.isolation import wire
from tlsify.keys import wipe
from tlsify.system import scm_rights
from tlsify.system.scm_rights import DescriptorLost
from tlsify.tls.context import drop_past_keys
from tlsify.tls.engine import Engine

if TYPE_CHECKING:
    from tlsify.codepoints import Aead
    from tlsify.config import ServerConfig
    from tlsify.tls.negotiated import Negotiated

_log = logging.getLogger("tlsify")

# Seconds between two looks at ticket keys that have expired.
CHORE_PAUSE = 600.0
_PAUSE = 0.1  # seconds, while no descriptor is to be had


class Holder:
    """Does the handshakes of one configuration until no process is left that could ask for any."""

    def __init__(
        self,
        rendezvous: socket.socket,
        config: ServerConfig,
        choices: tuple[tuple[Aead, ...], ...],
    ) -> None:
        """Prepare.

        Args:
            rendezvous: the holders' end of the socketpair (`remote_engine.Rendezvous`); several
                processes may have it.
            config: with keys.
            choices: of record protection, of which a request has the index.
        """
        self._rendezvous = rendezvous
        self._config = config
        self._choices = choices
        self._room = bytearray(wire.MAX_REQUEST)
        self._sessions: dict[int, _Session] = {}
        self._is_short = False
        self._poller = select.epoll()
        self._chore = time.monotonic() + CHORE_PAUSE

    def run(self) -> None:
        """Serve until the rendezvous is left by all."""
        self._rendezvous.settimeout(0)
        # Of several holders one wakes up for an invitation.
        self._poller.register(self._rendezvous, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        goes_on = True
        while goes_on:
            for number, events in self._poller.poll(max(self._chore - time.monotonic(), 0)):
                if number == self._rendezvous.fileno():
                    # An empty message is nonsense, and no end.
                    goes_on = self._welcome() or not events & select.EPOLLHUP
                elif not self._sessions[number].turn():
                    self._leave(number)
            if time.monotonic() >= self._chore:
                drop_past_keys(time.monotonic())
                self._chore = time.monotonic() + CHORE_PAUSE
        for number in list(self._sessions):
            self._leave(number)
        self._poller.close()
        self._rendezvous.close()

    def _welcome(self) -> bool:
        """Receive one invitation, with a request; return whether there was any."""
        try:
            # Another holder may take a message between a look at its size and its receipt.
            size, number = scm_rights.receive_into(self._rendezvous, self._room)
        except BlockingIOError:  # another holder was quicker
            return True
        except (AgentError, OSError) as exc:
            is_short = not isinstance(exc, AgentError) or isinstance(exc, DescriptorLost)
            if not (is_short and self._is_short):
                _log.warning("key holder: a handshake is refused: %s", exc)
            self._is_short = is_short
            if is_short:
                time.sleep(_PAUSE)
            return True
        request = bytes(memoryview(self._room)[:size])
        self._is_short = False
        if number is not None:
            self._begin(number, request)
        return bool(request)

    def _begin(self, number: int, request: bytes) -> None:
        try:
            session = _Session(scm_rights.as_socket(number), self._config, self._choices)
        except AgentError as exc:
            _log.warning("key holder: a handshake is refused: %s", exc)
            return
        try:
            if session.heed(request):
                self._poller.register(number, select.EPOLLIN)
                self._sessions[number] = session
        except OSError as exc:
            _log.warning("key holder: a handshake is refused: %s", exc)
        finally:
            if number not in self._sessions:
                session.close()

    def _leave(self, number: int) -> None:
        self._poller.unregister(number)
        self._sessions.pop(number).close()


class _Session:
    """One handshake."""

    def __init__(
        self,
        channel: socket.socket,
        config: ServerConfig,
        choices: tuple[tuple[Aead, ...], ...],
    ) -> None:
        self._channel = channel
        self._channel.settimeout(0)
        self._config = config
        self._choices = choices
        self._engine: Engine | None = None

    def turn(self) -> bool:
        """Receive one request and reply to it; return whether the handshake goes on."""
        try:
            request = self._channel.recv(wire.MAX_REQUEST + 1)
        except BlockingIOError:
            return True
        except OSError:  # it has given up, and left something unread
            return False
        return self.heed(request) if request else False

    def heed(self, request: bytes) -> bool:
        """Reply to a request; return whether the handshake goes on."""
        try:
            reply = self._reply(wire.decode_request(request))
        except (ValueError, IndexError) as exc:
            _log.warning("key holder: a request is refused: %s", exc)
            return False
        except Exception as exc:  # noqa: BLE001 - there are other handshakes than this one
            _log.exception("bug in a key holder")
            reply = wire.Reply(
                b"", error=TlsifyError(f"unexpected {type(exc).__name__} in a key holder")
            )
        return self._send(reply) and reply.negotiated is None and reply.error is None

    def _send(self, reply: wire.Reply) -> bool:
        message = wire.encode_reply(reply)
        if reply.keys is not None:
            reply.keys.wipe()
        try:
            self._channel.send(message, socket.MSG_NOSIGNAL)
        except OSError as exc:
            if not isinstance(exc, BrokenPipeError):  # it has given up
                _log.warning("key holder: a reply is lost: %s", exc)
            return False
        finally:
            wipe(message)
        return True

    def _reply(self, request: wire.Request) -> wire.Reply:
        """Process a request.

        Raises:
            IndexError: there is no such choice.
        """
        engine = self._engine
        error: TlsifyError | None = None
        outcome: Negotiated | None = None
        try:
            if engine is None:
                aeads = self._choices[request.choice]
                engine = self._engine = Engine(self._config, aeads, None, time.monotonic())
            for record in request.records:
                engine.feed(record)
            outcome = engine.result()
            if request.refused:
                refusal = PeerMisbehaved("bytes that are no record", alert=request.alert)
                engine.refuse(refusal, request.refused)
                error = refusal
        except TlsifyError as exc:
            error = exc
        output = b"" if engine is None else engine.output()
        log = b"" if engine is None or outcome is None else engine.take_key_log()
        keys = None if engine is None or outcome is None else engine.keys
        return wire.Reply(output, outcome, log, error, keys)

    def close(self) -> None:
        """Forget it."""
        self._channel.close()
        if self._engine is not None:
            self._engine.release()
            self._engine = None
