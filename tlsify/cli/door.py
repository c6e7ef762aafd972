"""The door of `listen`: accept, and fork for each connection, as many as have places."""

from __future__ import annotations

import errno
import gc
import logging
import math
import os
import select
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from tlsify.aio.outcomes import name_of
from tlsify.aio.pending import origin
from tlsify.cli.descriptor_limit import DescriptorLimit
from tlsify.cli.messages import fail, guarded
from tlsify.cli.newcomers import Newcomer, SilentNewcomers
from tlsify.cli.places import Place, Places, ShortageLog
from tlsify.connection.setup.handshake import too_slow
from tlsify.errors import ExitCode, TlsifyError, errno_name
from tlsify.logs import messages
from tlsify.logs.text import spell_address
from tlsify.metrics.counters import Event
from tlsify.serving.generation import STOP_SIGNALS, ended
from tlsify.system import listening
from tlsify.system.process import StopRequests, await_threads, fork
from tlsify.system.service_manager import ServiceManager, notify, watchdog_period
from tlsify.system.signal_pipe import SignalPipe
from tlsify.system.terminal import Terminal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

_log = logging.getLogger("tlsify")

_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
_PAUSE = 1.0  # seconds, where accepting or forking fails
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
_STALLED = "its handshake has stalled"


class DoorLimits(NamedTuple):
    """Limits of a door's connections.

    Attributes:
        connections: how many there may be at once, their keepers included.
        per_address: how many of them from one IPv4 address or IPv6 /64; None for any number.
        patience: seconds for a ClientHello, without which a connection has neither a place nor a
            process; None has each get them at once, since its program may speak first.
    """

    connections: int
    per_address: int | None = None
    patience: float | None = None


class Door:
    """Accepts, and forks for each connection.

    One process does it for all, so that limits are exact and nothing is shared; whatever takes
    time is done by the forked ones. Each of these, and the keeper that it forks, holds the other
    end of a pipe: a byte there says that the handshake is done, and its end that both are gone, or
    one has become the program.

    Attributes:
        refused: told of clients that are refused, as `AccessLog.refused`.
        reopen_logs: called on SIGUSR1.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        serve: Callable[[socket.socket, int], int],
        reload: Callable[[], None],
        limits: DoorLimits,
    ) -> None:
        """Prepare.

        Args:
            listeners: they belong to the door from here on.
            serve: called in a process of its own with a connection, and with the descriptor to say
                on that its handshake is done; gives the exit status.
            reload: called on SIGHUP; raises a TlsifyError if all is to stay as it was.
            limits: of its connections.
        """
        self.refused: Callable[[object, str, object, float], None] = lambda *_: None
        self.reopen_logs: Callable[[], None] = lambda: None
        self._listeners = list(listeners)
        self._serve = serve
        self._reload = reload
        self._descriptors = DescriptorLimit()
        limit, silent = self._descriptors.suffice_for(limits.connections)
        self._places = Places(limit)
        self._per_address = limits.per_address
        self._by_pid: dict[int, Place] = {}
        self._by_lifeline: dict[int, Place] = {}
        self._waiting: list[Newcomer] = []
        self._stopping = self._leaving = False
        self._requests = StopRequests()
        self._resume_at: float | None = None
        self._looked = 0.0  # when what was due by then was done
        self._terminal = Terminal()
        self._pipe = SignalPipe()
        self._poller = select.epoll()
        self._patience = limits.patience
        self._silent = SilentNewcomers(self._poller, silent, limits.patience or 0.0)
        self._polled: set[int] = set()
        self._manager = ServiceManager(notify, watchdog_period())
        self._shortage = ShortageLog()
        self._is_short = False

    # -- the loop

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, and then until the last connection has ended."""
        gc.freeze()  # what is here by now stays: forked processes need not copy its pages
        self._pipe.catch(_SIGNALS)
        self._poller.register(self._pipe.reader, select.EPOLLIN)
        for sock in self._listeners:
            sock.settimeout(0)
        for sock in self._listeners:
            messages.announce(f"listening on {listening.spell(sock)}")
        self._manager.ready()
        while not self._stopping or (self._places and not self._leaving):
            for number in self._wait():
                if number == self._pipe.reader:
                    self._heed(self._pipe.read())
                elif (place := self._by_lifeline.get(number)) is not None:
                    self._hear(place)
                elif number in self._silent:
                    self._greet(number)
                else:
                    self._accept(number)
            self._look_after(time.monotonic())
        self._poller.close()
        self._pipe.close(STOP_SIGNALS)

    def _wait(self) -> list[int]:
        """Wait for something; return the descriptors, that of signals first."""
        now = time.monotonic()
        wanted = self._resume_at is None and self._places.admits(len(self._waiting))
        for sock in self._listeners:
            try:
                self._poll(sock.fileno(), wanted=wanted)
            except OSError as exc:
                self._pause("wait for connections", exc)
        due = [self._manager.due, self._silent.due]
        if self._resume_at is not None:
            due.append(self._resume_at)
        elif self._waiting and (moment := self._places.due(self._looked)) is not None:
            due.append(moment)
        wait = min(due) - now
        events = self._poller.poll(None if math.isinf(wait) else max(wait, 0) + 0.001)
        return sorted((number for number, _ in events), key=lambda it: it != self._pipe.reader)

    def _poll(self, number: int, *, wanted: bool) -> None:
        """Add a listening socket to the poller, or remove it."""
        if wanted and number not in self._polled:
            self._poller.register(number, select.EPOLLIN)
            self._polled.add(number)
        elif not wanted and number in self._polled:
            self._poller.unregister(number)
            self._polled.discard(number)

    def _look_after(self, now: float) -> None:
        """Do what is due."""
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
        for late in self._silent.late(now):
            self._give_up(late)
        if not self._stopping:
            self._make_room(now)
        self._looked = now
        self._manager.feed(now)

    def _heed(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            for pid, code in ended():
                self._bury(pid, code)
        if signal.SIGUSR1 in numbers:
            self.reopen_logs()
        is_hung_up = signal.SIGHUP in numbers and self._terminal.is_gone()
        if is_hung_up or STOP_SIGNALS.intersection(numbers):
            self._leaving = self._requests.insist()  # running programs go on without us
            self._stop()
        elif signal.SIGHUP in numbers and not self._stopping:
            self._manager.reloading()
            try:
                self._reload()
                _log.info("certificate and key were read anew")
                self._manager.ready("reloaded")
            except TlsifyError as exc:
                _log.error("reload failed, keeping the current certificate: %s", exc)
                self._manager.ready(f"not reloaded: {exc}")

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._manager.stopping()
        for sock in self._listeners:
            self._poll(sock.fileno(), wanted=False)
            sock.close()
        self._listeners.clear()
        self._silent.close()
        while self._waiting:  # as connections in the listening socket's queue
            self._waiting.pop().sock.close()

    # -- newcomers

    def _accept(self, number: int) -> None:
        listener = next((each for each in self._listeners if each.fileno() == number), None)
        if listener is None:  # the signal was to stop
            return
        try:
            sock, name = listener.accept()
        except BlockingIOError:
            return  # the connection is gone
        except OSError as exc:
            # One that was cut is none of ours; where we lack something, it may be had later.
            if not isinstance(exc, ConnectionError):
                self._pause("accept", exc)
            return
        self._is_short = False
        newcomer = Newcomer(sock, origin(name), name, time.monotonic())
        if self._has_enough(newcomer.origin):
            why = f"its address has reached its limit of connections ({self._per_address})"
            self._refuse(newcomer, "per_address", why)
            return
        if self._patience is None:
            self._waiting.append(newcomer)
        else:
            self._await_greeting(newcomer)

    def _await_greeting(self, newcomer: Newcomer) -> None:
        """Leave a newcomer without a place until it has greeted."""
        now = newcomer.since
        if (excess := self._silent.excess(now)) is not None:
            self._refuse(excess, name_of(Event.HANDSHAKE_EVICTED), _STALLED)
            self._shortage.note(now, newcomers=1)
        newcomer.sock.settimeout(0)
        try:
            if not self._silent.wait_for(newcomer):
                self._waiting.append(newcomer)
        except OSError as exc:
            newcomer.sock.close()
            self._pause("wait for a ClientHello", exc)

    def _greet(self, number: int) -> None:
        if (newcomer := self._silent.greeted(number)) is not None:
            self._waiting.append(newcomer)

    def _give_up(self, newcomer: Newcomer) -> None:
        """Close the connection of a newcomer that has not greeted, with its process's message."""
        error = too_slow(self._patience or 0.0, None)
        token = messages.peer.set(newcomer.address)
        fail(f"{_prefix(newcomer)}{error}", error.hint)
        messages.peer.reset(token)
        seconds = time.monotonic() - newcomer.since
        self.refused(newcomer.address, name_of(Event.HANDSHAKE_TOO_SLOW), error, seconds)
        newcomer.sock.close()

    def _refuse(self, newcomer: Newcomer, end: str, why: str) -> None:
        about = {"peer": newcomer.address}
        _log.log(messages.NOTICE, "connection refused: %s", why, extra=about)
        self.refused(newcomer.address, end, why, time.monotonic() - newcomer.since)
        newcomer.sock.close()

    def _has_enough(self, where: bytes | None) -> bool:
        waiting = sum(each.origin == where for each in self._waiting)
        number = self._places.number_from(where) + self._silent.number_from(where) + waiting
        return self._per_address is not None and number >= self._per_address

    def _make_room(self, now: float) -> None:
        """Return places to waiting connections, and see that there will be others."""
        for newcomer in self._places.order(self._waiting)[: self._places.free]:
            if self._resume_at is not None or not self._fork(newcomer, now):
                return
            self._waiting.remove(newcomer)
        for place in self._places.victims(self._waiting, now):
            self._hear(place)
            if self._places.is_opening(place) and place.lifeline != -1:  # still, and not ending
                about = {"peer": place.address}
                _log.log(messages.NOTICE, "connection refused: %s", _STALLED, extra=about)
                end = name_of(Event.HANDSHAKE_EVICTED)
                self.refused(place.address, end, _STALLED, now - place.since)
                self._places.give_up(place)
                if place.runs:
                    os.kill(place.pid, signal.SIGTERM)  # and its keeper ends with it
                self._shortage.note(now, handshakes=1)
        while (refused := self._places.refused(self._waiting, now)) is not None:
            self._waiting.remove(refused)
            self._refuse(refused, "no_place", "all places for connections are taken")
            self._shortage.note(now, newcomers=1)

    def _pause(self, what: str, exc: OSError) -> None:
        """Pause for want of something; a newcomer that has stalled shortens that, once."""
        self._resume_at = now = time.monotonic()
        stalled = self._silent.stalled(now) if exc.errno in _NO_DESCRIPTOR else None
        may_suffice = stalled is not None and not self._is_short
        self._is_short = True
        if stalled is not None:
            self._refuse(stalled, name_of(Event.HANDSHAKE_EVICTED), _STALLED)
            self._shortage.note(now, newcomers=1)
        if may_suffice:
            return
        _log.warning("cannot %s: %s: %s", what, errno_name(exc.errno or 0), exc.strerror)
        self._resume_at = now + _PAUSE

    # -- places

    def _fork(self, newcomer: Newcomer, now: float) -> bool:
        """Fork a process for a new connection; if that fails now, log it and wait."""
        try:
            lifeline, other_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            self._pause("accept", exc)
            return False
        try:
            self._poller.register(lifeline, select.EPOLLIN)
            pid = fork()
        except OSError as exc:
            os.close(lifeline)
            os.close(other_end)
            self._pause("fork", exc)
            return False
        if not pid:
            self._be_child(newcomer, lifeline, other_end)
        os.close(other_end)
        newcomer.sock.close()
        place = Place(pid, newcomer.origin, newcomer.address, now, lifeline)
        self._by_pid[pid] = self._by_lifeline[lifeline] = place
        self._places.enter(place)
        return True

    def _be_child(self, newcomer: Newcomer, lifeline: int, other_end: int) -> NoReturn:
        status: int = ExitCode.BUG
        try:
            self._poller.close()
            self._pipe.drop()
            for number in (lifeline, *self._by_lifeline):
                os.close(number)
            self._silent.drop()
            for sock in (*self._listeners, *(each.sock for each in self._waiting)):
                if sock is not newcomer.sock:
                    sock.close()
            self._descriptors.restore()
            newcomer.sock.settimeout(None)
            messages.peer.set(newcomer.address)
            serve = partial(self._serve, newcomer.sock, other_end)
            status = guarded(serve, _prefix(newcomer))
            await_threads()
        finally:
            os._exit(status)

    def _hear(self, place: Place) -> None:
        """Read what a connection's processes say, or that they are gone."""
        if place.lifeline == -1:  # and SIGCHLD has not come yet
            return
        try:
            said = os.read(place.lifeline, 16)
        except BlockingIOError:
            return
        if said:
            self._places.opened(place, time.monotonic())
            return
        self._poller.unregister(place.lifeline)
        os.close(place.lifeline)
        del self._by_lifeline[place.lifeline]
        place.lifeline = -1
        self._leave(place)

    def _bury(self, pid: int, code: int) -> None:
        place = self._by_pid.pop(pid, None)
        if place is not None:
            about = {"peer": place.address}
            _log.debug("process %d ended with status %d", pid, code, extra=about)
            place.runs = False
            self._leave(place)

    def _leave(self, place: Place) -> None:
        """Free a place, if that was the last of what held it."""
        if not place.runs and place.lifeline == -1:
            self._places.leave(place)


def _prefix(newcomer: Newcomer) -> str:
    """Return how an error line about a connection begins; in JSON the address is a field."""
    return "" if messages.is_json() else f"{spell_address(newcomer.address)}: "
