"""Supervisor of a wrapped program: runs until the last of its processes has ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

from tlsify.aio.acceptor import Acceptor
from tlsify.aio.limits import Limits
from tlsify.connection.ending import patience
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.errors import TlsifyError
from tlsify.http.endpoint import Endpoint
from tlsify.logs.messages import NOTICE
from tlsify.metrics.counters import Event, Gauge, count, put
from tlsify.metrics.exposition import About, Scrape
from tlsify.serving.changes import Changes
from tlsify.serving.configuration import retire
from tlsify.serving.generation import ended
from tlsify.serving.server import expiries
from tlsify.status import roster
from tlsify.system import listening
from tlsify.system.process import await_threads
from tlsify.wrap.calls import Calls
from tlsify.wrap.holders import children
from tlsify.wrap.ports import Ports
from tlsify.wrap.signals import SignalOrigins

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.logs.access import AccessLog
    from tlsify.serving.configuration import Configuration
    from tlsify.wrap.launch import Launch
    from tlsify.wrap.numbers import Numbers

_log = logging.getLogger("tlsify")

# Signals that are the program's, whoever is sent them.
_FORWARDED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGWINCH,
)  # fmt: skip
_BY_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH}
# Seconds between looks: at sockets that the program may have closed, and at connections that it may
# have closed without a call that tells.
_DOORS, _CONNECTIONS = 1.0, 5.0
# Descriptors that connections do not get, so that the program can be looked at (`threads`,
# `copies`); and how many each connection takes at most: its socket, its knock, and later one for
# its process; and on the relay path a pair.
_RESERVE, _PER_OFFLOADED, _PER_RELAYED = 128, 3, 5
_PARTING = 3.0  # seconds for peers to read what the program has sent, once it has ended
_GARBAGE = (2_000, 10, 5)  # as of workers (`serving.server`)
_AS_ROOT = (
    "the supervisor's and the program's processes run as root: start tlsify as another user, "
    "unless the program changes its user itself"
)
_SIGNALLED = 128  # and the signal's number: how shells spell such an end


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapPlan:
    """Plan of a wrapped program.

    Attributes:
        launch: the child that waits to become it.
        numbers: for the descriptors of its connections.
        configuration: read anew when files change, and on SIGHUP.
        policy: when to offload.
        limits: of each address that the program listens on.
        ports: which get TLS.
        watch: its value changes when files have to be read again.
        metrics: listening, each for an `http.endpoint.Endpoint`.
        stranger: answers clients that speak no TLS, as `Acceptor` has it.
        access_log: gets a line for each connection; opened anew on each reload.
    """

    launch: Launch
    numbers: Numbers
    configuration: Configuration
    policy: KtlsPolicy
    limits: Limits = field(default_factory=Limits)
    ports: Ports = field(default_factory=Ports)
    watch: Callable[[], object] = lambda: None
    metrics: Sequence[socket.socket] = ()
    stranger: Callable[[bytes], bytes] | None = None
    access_log: AccessLog | None = None


def run(plan: WrapPlan) -> int:
    """Let the program begin, and serve it until all its processes have ended.

    Returns:
        The exit status of its first process, as shells spell it.

    Raises:
        ConfigError: the configuration is unusable; the program has not begun.
        KtlsUnavailable: the policy requires the kernel, which cannot.
    """
    changes = Changes(plan.watch())
    try:
        config = plan.configuration.load()
    except BaseException:
        plan.launch.cancel()
        raise
    if os.geteuid() == 0:
        _log.warning(_AS_ROOT)
    plan.configuration.warn_of_readable_keys("use --key-fd")
    _allow_descriptors()
    gc.freeze()
    gc.set_threshold(*_GARBAGE)
    supervisor = _Supervisor(plan, config, changes)
    paths = [
        name for name in (sock.getsockname() for sock in plan.metrics) if isinstance(name, str)
    ]
    try:
        with asyncio.Runner() as runner:
            runner.run(supervisor.run())
    finally:
        for path in paths:
            listening.remove(path)
    await_threads()
    return supervisor.status


def _allow_descriptors() -> None:
    """Allow this process as many descriptors as it may have: each connection takes some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Supervisor:
    """One wrapped program."""

    def __init__(self, plan: WrapPlan, config: ServerConfig, changes: Changes) -> None:
        self._plan = plan
        self._config = config
        self._changes = changes
        self._ours = set(children(os.getpid())) - {plan.launch.pid}
        self._first: int | None = plan.launch.pid
        self._is_over = asyncio.Event()
        self._has_told = False  # that the first process has left others behind
        self._acceptors: WeakSet[Acceptor] = WeakSet()  # of closed doors, too, as long as they last
        self.status = 0
        notifications = plan.launch.notifications
        access_log = plan.access_log
        self._calls = Calls(notifications, plan.numbers, self._accept_on, plan.ports, access_log)
        self._each = _PER_OFFLOADED
        refusal = host_refusal(plan.policy)
        self._is_relayed = refusal is not None
        if refusal is not None:
            self._each = _PER_RELAYED
            self._calls.carrier = f"relay: {refusal.code}"

    def _accept_on(
        self, listeners: Sequence[socket.socket], serve: Callable[..., object]
    ) -> Acceptor:
        plan = self._plan
        acceptor = Acceptor(listeners, serve, self._config, plan.policy, plan.limits)  # type: ignore[arg-type]
        acceptor.stranger = plan.stranger
        acceptor.is_inline = True
        acceptor.keeps_thread = self._is_relayed
        if plan.access_log is not None:
            acceptor.refused = plan.access_log.refused
        acceptor.is_crowded = self._is_crowded
        self._acceptors.add(acceptor)
        return acceptor

    def _is_crowded(self) -> bool:
        """Return whether all doors have as many connections as our descriptors are enough for."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return False
        most = (soft - min(_RESERVE, soft // 2)) // self._each
        return sum(each.connections for each in self._acceptors) >= max(most, 1)

    async def run(self) -> None:
        """Serve the program until its end."""
        loop = asyncio.get_running_loop()
        notifications = self._plan.launch.notifications
        loop.add_reader(notifications.descriptor, self._answer)
        for number in _FORWARDED:
            if number not in _BY_TERMINAL:
                loop.add_signal_handler(number, self._forward, number)
        origins = SignalOrigins(_BY_TERMINAL)
        loop.add_reader(origins.descriptor, self._forward_all, origins)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        put(Gauge.WORKERS, 1)
        about = About(tuple(expiries(self._config)), self._limits())
        chores = [
            (_DOORS, self._calls.check_doors),
            (_DOORS, self._reap),  # again, where it could not tell
            (_CONNECTIONS, self._calls.check_connections),
            (_CONNECTIONS, self._calls.forget_processes),
        ]
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(roster.publish())
            for sock in self._plan.metrics:
                await stack.enter_async_context(Endpoint(sock, Scrape(lambda: about)))
            tasks = [asyncio.create_task(_regularly(*chore)) for chore in chores]
            tasks.append(asyncio.create_task(self._watch_files()))
            self._plan.launch.release()
            await self._is_over.wait()
            for task in tasks:
                task.cancel()
            loop.remove_reader(notifications.descriptor)
            patience.hurry(_PARTING)
            await self._calls.part()
        notifications.close()

    def _answer(self) -> None:
        try:
            self._calls.answer()
        except EOFError:  # all are ending; `_reap` hears of it
            asyncio.get_running_loop().remove_reader(self._plan.launch.notifications.descriptor)

    # -- processes

    def _reap(self) -> None:
        """Take the exit statuses of our children, orphans of the program's among them."""
        for pid, code in ended():
            self._ours.discard(pid)
            if pid == self._first:
                self._first = None
                self.status = code if code >= 0 else _SIGNALLED - code
        if self._is_childless():
            self._is_over.set()
        elif self._first is None and not self._has_told:
            self._has_told = True
            message = "the program's first process has ended, with status %d; others of it go on"
            _log.log(NOTICE, message, self.status)

    def _is_childless(self) -> bool:
        """Return whether no process of the program's is left; one that cannot tell says no."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return bool(self._ours) and not set(children(os.getpid())) - self._ours

    def _forward(self, number: signal.Signals) -> None:
        """Pass a signal on, to the first process or to what it has left behind."""
        for pid in self._of_program():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGHUP:
            self._reload()

    def _of_program(self) -> set[int]:
        if self._first is not None:
            return {self._first}
        return set(children(os.getpid())) - self._ours

    def _forward_all(self, origins: SignalOrigins) -> None:
        """Pass on what a terminal has not sent to the program itself: its group had that."""
        group = os.getpgrp()
        for number, is_of_kernel in origins.read():
            for pid in self._of_program():
                with contextlib.suppress(ProcessLookupError):
                    if not (is_of_kernel and os.getpgid(pid) == group):
                        os.kill(pid, number)

    # -- configuration

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(self._changes.pause)
            if self._changes.look(self._plan.watch()):
                self._reload()

    def _reload(self) -> None:
        self._changes.accept(self._plan.watch())
        if self._plan.access_log is not None:
            self._plan.access_log.reopen()
        before = self._config
        try:
            self._config = self._plan.configuration.load()
        except (TlsifyError, OSError) as exc:
            _log.error("reload failed; keeping the previous certificates: %s", exc)
            count(Event.RELOAD_REFUSED)
            return
        finally:
            self._ours |= self._plan.configuration.custodians()
        for door in self._calls.doors():
            door.acceptor.reload(self._config)
        retire(before)
        _log.info("reloaded")
        count(Event.RELOADED)

    def _limits(self) -> dict[str, float]:
        limits = self._plan.limits
        named = {
            "connections": limits.connections,
            "handshakes": limits.handshakes,
            "per_address": limits.per_address,
            "handshake_seconds": self._config.timeout,
        }
        return {name: most for name, most in named.items() if most is not None}


async def _regularly(seconds: float, work: Callable[[], object]) -> None:
    """Do something again and again, also where it fails: that is logged once."""
    has_failed = False
    while True:
        await asyncio.sleep(seconds)
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - what is done must not end while the program runs
            if not has_failed:
                _log.error("a periodic look has failed, retrying: %s", exc, exc_info=exc)
            has_failed = True
