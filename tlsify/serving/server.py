"""Serve with several processes: configuration, workers, drain, metrics, re-exec."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tlsify.aio.acceptor import Acceptor
from tlsify.aio.limits import Limits
from tlsify.aio.loop import EventLoop
from tlsify.aio.plain_acceptor import PlainAcceptor
from tlsify.connection import establish
from tlsify.connection.ending import patience
from tlsify.connection.setup import keylog
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.http.endpoint import Endpoint
from tlsify.metrics.counters import BEAT_INTERVAL, beat, share
from tlsify.metrics.exposition import About, Scrape, is_ready
from tlsify.serving import supervisor
from tlsify.serving.configuration import Configuration, leave_holders, retire
from tlsify.serving.duty import SupervisorHooks
from tlsify.serving.errands import Errand, Errands
from tlsify.serving.plain_http import BOUNDS, Redirector
from tlsify.serving.reexec import SYSTEMD
from tlsify.serving.warm_up import rehearse
from tlsify.status import roster
from tlsify.system import listening, service_manager
from tlsify.system.process import await_threads, end_with, forgo_rights, ignore
from tlsify.system.sandbox import Reach, Sandboxing, confine, renounce
from tlsify.trust import store

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from tlsify.aio.admission import Admission
    from tlsify.config import ClientConfig, ServerConfig
    from tlsify.serving.generation import Work, WorkerHandle
    from tlsify.serving.plan import Provision, ServerPlan, Service

_log = logging.getLogger("tlsify")

# Descriptors that a worker needs apart from connections, and the most of each connection: the
# socket, and the file that is sent on it or the backend's; two more where a relay has a pair.
_OWN_DESCRIPTORS = 64
_PER_INLINE, _PER_RELAYED = 2, 4
# When a worker looks for garbage. The command that it was forked from does so rarely, for a quick
# start; here each connection leaves some forty objects that know each other.
_GARBAGE = (2_000, 10, 5)
# Seconds that a drained worker waits for peers that do not read: less than `supervisor._GRACE`.
_PARTING = 3.0


def run(plan: ServerPlan) -> None:
    """Serve until SIGTERM or SIGINT, then drain; docs/operations.md describes each signal.

    Raises:
        ConfigError: the configuration is unusable.
        KtlsUnavailable: the policy requires the kernel, which cannot.
        WorkerError: workers do not start.
        OSError: there is no memory for counters.
    """
    office = _Office(plan)
    seen = office.watch()
    estate = plan.estate
    if not estate.is_rehearsal:  # a custodian counts, too
        estate.counters = share(None if estate.counters == -1 else estate.counters)
    work = office.renew()
    if estate.is_rehearsal:
        return
    rehearse()
    office.plan = replace(plan, limits=_within_means(plan))
    gc.freeze()  # all objects so far stay: workers need not copy their pages
    duty = SupervisorHooks(
        on_ready=plan.on_ready,
        on_stop=office.close,
        before_fork=establish.drop_past_keys,
        renew=office.renew,
        retire=office.retire,
        reopen_logs=office.reopen_logs,
        watch=office.watch,
        seen=seen,
        rehearse=estate.rehearse,
        succeed=estate.succeed,
        leave=plan.drain_delay,
        drain=plan.drain_seconds,
        notify=service_manager.notify,
        watchdog=service_manager.watchdog_period(),
        errands=Errands(plan.errands, office.send_off),
    )
    paths = office.paths()
    try:
        supervisor.run(plan.workers, work, duty, estate.workers)
    finally:
        for sock in plan.metrics:
            listening.forget(sock)
        for path in paths:
            listening.remove(path)


class _Office:
    """State of the supervisor for future workers: listening sockets and the configuration."""

    def __init__(self, plan: ServerPlan) -> None:
        self.plan = plan
        self._configuration: Configuration | None = None
        if plan.load is not None:
            self._configuration = Configuration(plan.load, plan.policy, plan.isolation)
        self._configs: dict[Work, ServerConfig | None] = {}
        self._pid = os.getpid()

    def watch(self) -> object:
        """Return a value that changes when everything has to be read anew."""
        files = None if self.plan.watch is None else self.plan.watch()
        return files, None if self._configuration is None else self._configuration.losses()

    def renew(self) -> Work:
        """Return a worker's main function, with the current configuration."""
        provision = self.plan.provide()
        config = None if self._configuration is None else self._configuration.load()
        self.reopen_logs()
        work = partial(self._be_worker, config, provision)
        self._configs[work] = config
        return work

    def reopen_logs(self) -> None:
        """Open the access log anew, which workers could not."""
        if self.plan.access_log is not None:
            self.plan.access_log.reopen()

    def retire(self, work: Work) -> None:
        """Leave the key holders of a configuration that no new worker will have."""
        if (config := self._configs.pop(work)) is not None:
            retire(config)

    def close(self) -> None:
        for sock in (*self.plan.listeners, *self.plan.plain_http.listeners):
            sock.close()

    def paths(self) -> list[str]:
        """Return the paths that are to be removed, once no worker listens there any more."""
        passed = self.plan.estate.sockets.get(SYSTEMD, ())
        own = (sock for sock in self.plan.listeners if sock not in passed)
        names = (sock.getsockname() for sock in (*own, *self.plan.plain_http.listeners))
        return [name for name in names if isinstance(name, str) and name]

    def send_off(self, errand: Errand) -> None:
        """Leave, in the process of an errand, what is the server's, and give up other rights."""
        plan = self.plan
        for sock in (*plan.listeners, *plan.metrics, *plan.plain_http.listeners):
            sock.close()
        leave_holders()
        if plan.sandboxing is Sandboxing.OFF:
            forgo_rights()
        else:
            renounce()
        end_with(self._pid)
        confine(errand.reach(), plan.sandboxing)

    def _be_worker(
        self, config: ServerConfig | None, provision: Provision, post: WorkerHandle
    ) -> None:
        plan = self.plan
        own = part(plan.listeners, post.index, plan.workers)
        for sock in plan.listeners:
            if sock not in own:
                sock.close()
        leave_holders(of_others_than=config)
        gc.set_threshold(*_GARBAGE)
        if plan.sandboxing is Sandboxing.OFF:
            forgo_rights()
        else:
            renounce()
        if plan.account is not None:
            plan.account.become()
        end_with(self._pid)
        confine(_reach(plan, config, provision.clients), plan.sandboxing)
        for key_log in _key_logs(config, provision.clients):
            keylog.append(key_log, b"")  # as this user, or each handshake would fail
        if post.index == 0 and self._configuration is not None:
            self._configuration.warn_of_readable_keys()
        # Its sendfile ends a connection rather than let an answer be too short.
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.run(_serve(plan, config, provision, own, post))
        patience.hurry(_PARTING)
        await_threads()


def _reach(plan: ServerPlan, config: ServerConfig | None, clients: Sequence[ClientConfig]) -> Reach:
    """Add the paths of roster, key logs, sessions and authorities to the service's own."""
    reach = plan.reach()
    logs = [os.path.dirname(os.path.abspath(file)) for file in _key_logs(config, clients)]
    folders = [roster.place(), *(each.session_store for each in clients), *logs]
    write = dict.fromkeys(str(path) for path in folders if path is not None)
    trusted = [each.trust for each in clients if each.verify]
    if config is not None and config.client_trust is not None:
        trusted.append(config.client_trust)
    read = dict.fromkeys(path for each in trusted for path in store.read_later(each))
    return reach._replace(
        read=(*reach.read, *read),
        write=(*reach.write, *write),
    )


def _key_logs(config: ServerConfig | None, clients: Sequence[ClientConfig]) -> list[str]:
    """Return the files that secrets are appended to."""
    configs = [*clients, *(() if config is None else (config,))]
    return [os.fspath(each.key_log) for each in configs if each.key_log is not None]


def part(listeners: Sequence[socket.socket], index: int, number: int) -> list[socket.socket]:
    """Return a worker's own listening sockets, of each address.

    Args:
        listeners: of any addresses, several of one or not.
        index: which worker.
        number: of workers; each socket is at least one's.
    """
    by_address: dict[object, list[socket.socket]] = {}
    for sock in listeners:
        by_address.setdefault(sock.getsockname(), []).append(sock)
    own = []
    for sockets in by_address.values():
        own += sockets[index::number] or [sockets[index % len(sockets)]]
    return own


def _within_means(plan: ServerPlan) -> Limits:
    """Limit the number of connections by the available descriptors.

    A server that has run out of them can neither accept nor open the file that it is asked for. So
    further connections wait in the backlog.
    """
    has_pairs = not plan.is_inline and host_refusal(plan.policy) is not None
    own = _OWN_DESCRIPTORS + BOUNDS.at_once * len(plan.plain_http.listeners)
    each = _PER_RELAYED if has_pairs else _PER_INLINE
    most = _descriptors(own, each, plan.workers)
    limits = plan.limits
    if most is None or (limits.connections is not None and limits.connections <= most):
        return limits
    if limits.connections is not None:
        _log.warning(
            "%d connections at a time, and not %d: no more descriptors (ulimit -n)",
            most,
            limits.connections,
        )
    return Limits(most, limits.handshakes, limits.per_address)


def _descriptors(own: int, each: int, processes: int) -> int | None:
    """Return the number of connections, files included, that the hard limit allows.

    Args:
        own: descriptors that a process needs apart from connections.
        each: descriptors that a connection needs.
        processes: that have connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return None
    return max((soft - own) // each, 1) * processes


async def _serve(
    plan: ServerPlan,
    config: ServerConfig | None,
    provision: Provision,
    listeners: list[socket.socket],
    post: WorkerHandle,
) -> None:
    """Run as a worker: accept until SIGTERM, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Not by add_signal_handler: the loop would leave the signal's default behind.
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(stop.set))
    _show_life(loop)
    service = provision.service()
    limits = plan.limits.part(post.index, plan.workers)
    acceptor = _acceptor(plan, config, service, listeners, limits)
    await service.start(acceptor.is_full)
    acceptor.proxies = plan.proxies
    if plan.access_log is not None:
        acceptor.refused = plan.access_log.refused
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(service.stop)
        stack.enter_context(roster.publish())
        about = About(tuple(expiries(config, provision.clients)), _limits(plan, config))
        endpoints = [
            Endpoint(sock, Scrape(lambda: replace(about, backends=service.backends())))
            for sock in plan.metrics
        ]
        redirect = Redirector(plan.plain_http, plan.access_log)
        plain = [Endpoint(sock, redirect, BOUNDS) for sock in plan.plain_http.listeners]
        for endpoint in (*endpoints, *plain):
            await stack.enter_async_context(endpoint)
        await stack.enter_async_context(acceptor)
        post.ready()
        await stop.wait()
        is_last = not is_ready()
        if not is_last:
            for endpoint in endpoints:
                endpoint.leave()  # those who have come after us answer
        for endpoint in plain:
            endpoint.leave(sweep=is_last)
        parting = asyncio.create_task(service.drain())
        await acceptor.drain(plan.drain_seconds, sweep=is_last)
        parting.cancel()
        await asyncio.gather(parting, return_exceptions=True)
    # SIGTERM may come again, to the whole service; open connections are still to be finished.
    ignore([signal.SIGTERM])


def _acceptor(
    plan: ServerPlan,
    config: ServerConfig | None,
    service: Service,
    listeners: list[socket.socket],
    limits: Limits,
) -> Admission:
    acceptor: Admission
    if config is None:
        acceptor = PlainAcceptor(listeners, service.serve, limits)
    else:
        acceptor = Acceptor(listeners, service.serve, config, plan.policy, limits)
        acceptor.is_inline = plan.is_inline
        acceptor.stranger = plan.stranger
    acceptor.keeps_thread = plan.is_inline and host_refusal(plan.policy) is not None
    return acceptor


def _show_life(loop: asyncio.AbstractEventLoop) -> None:
    """Show the supervisor, again and again, that the loop runs."""
    beat()
    loop.call_later(BEAT_INTERVAL, _show_life, loop)


def expiries(
    config: ServerConfig | None, clients: Sequence[ClientConfig] = ()
) -> Iterator[tuple[str, float]]:
    """Return when each certificate expires; of several with the same names, the first that does."""
    moments: dict[str, float] = {}
    own = () if config is None or config.provisional else (config.key_pair, *config.more_key_pairs)
    for pair in (*own, *(each.key_pair for each in clients if each.key_pair is not None)):
        name, moment = ",".join(pair.names), pair.not_after.timestamp()
        moments[name] = min(moments.get(name, moment), moment)
    yield from moments.items()


def _limits(plan: ServerPlan, config: ServerConfig | None) -> dict[str, float]:
    named = {
        "connections": plan.limits.connections,
        "handshakes": None if config is None else plan.limits.handshakes,
        "per_address": plan.limits.per_address,
        "workers": plan.workers,
        "drain_seconds": plan.drain_seconds,
        "handshake_seconds": None if config is None else config.timeout,
    }
    return {name: most for name, most in named.items() if most is not None}
