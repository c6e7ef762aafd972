"""Plan of a server of several processes: listeners, configuration, service, limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tlsify.aio.limits import Limits
from tlsify.serving.plain_http import PlainHttp
from tlsify.serving.reexec import Inherited
from tlsify.system.sandbox import Reach, Sandboxing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from tlsify.config import ClientConfig, KtlsPolicy, ServerConfig
    from tlsify.logs.access import AccessLog
    from tlsify.passing.proxies import Proxies
    from tlsify.serving.configuration import Isolation
    from tlsify.serving.errands import Errand
    from tlsify.system.process import Account


class Service(Protocol):
    """Service for connections, in one worker."""

    async def start(self, is_full: Callable[[], bool], /) -> None:
        """Prepare; called before the first connection.

        Args:
            is_full: whether newcomers have to wait for the end of a connection.
        """

    async def serve(self, client: Any) -> None:
        """Serve one connection until it is closed; if cancelled, it has to go.

        Args:
            client: a `Handoff`, or a `Plain` where clients speak no TLS.
        """

    async def drain(self) -> None:
        """Drain: end idle connections, and let others finish.

        It is cancelled when there is none left, or no time.
        """

    async def stop(self) -> None:
        """Clean up; called after the last connection."""

    def backends(self) -> Mapping[str, bool]:
        """Return the backends by name, and whether each is up, as this worker sees it."""


class Provision(NamedTuple):
    """What workers of a generation serve with, as the files are when it begins.

    Attributes:
        service: makes a worker's service.
        clients: configurations of the TLS connections that it makes itself.
    """

    service: Callable[[], Service]
    clients: Sequence[ClientConfig] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """Plan of a server: listeners, configuration, limits.

    Attributes:
        listeners: bound and listening; where several have one address (SO_REUSEPORT) each worker
            gets its part of them, else all of them share it. They stay open here, so that a waiting
            connection is not lost with a worker.
        load: returns the configuration, now and on each reload; raises a TlsifyError to refuse.
            None where clients speak no TLS.
        policy: when to offload.
        provide: returns what workers serve with, likewise.
        workers: number of processes.
        limits: for all of them together.
        drain_delay: seconds between a request to end and the drain, in which /readyz says so.
        drain_seconds: limit for connections to end; the rest is cut off then.
        metrics: listening, each for an `http.endpoint.Endpoint`.
        plain_http: what is served without TLS.
        watch: its value is looked at every few seconds; when it changes, all is reloaded.
        reach: what workers need, as long as nothing is reloaded.
        sandboxing: whether they give up unneeded rights.
        account: user of the workers. The supervisor keeps its rights, to read keys again.
        on_ready: called when every worker accepts connections.
        proxies: whose connections begin with a PROXY header, or None.
        stranger: answers clients that speak no TLS, as `Acceptor` has it.
        access_log: told of refused clients; opened anew on each reload. Or None.
        isolation: of the private keys from workers; None lets them have these.
        errands: what is to be done now and then, in processes of their own, with the rights that
            the supervisor has.
        is_inline: whether `pump.carry` or a transport carries the data, which needs no thread.
        estate: descriptors for SIGUSR2 to pass on, and those passed on to us; the caller closes it.
    """

    listeners: Sequence[socket.socket]
    load: Callable[[], ServerConfig] | None
    policy: KtlsPolicy
    provide: Callable[[], Provision]
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    drain_delay: float = 0
    drain_seconds: float = 30.0
    metrics: Sequence[socket.socket] = ()
    plain_http: PlainHttp = field(default_factory=PlainHttp)
    watch: Callable[[], object] | None = None
    reach: Callable[[], Reach] = Reach
    sandboxing: Sandboxing = Sandboxing.AUTO
    account: Account | None = None
    on_ready: Callable[[], None] = lambda: None
    proxies: Proxies | None = None
    stranger: Callable[[bytes], bytes] | None = None
    access_log: AccessLog | None = None
    isolation: Isolation | None = None
    errands: Sequence[Errand] = ()
    is_inline: bool = False
    estate: Inherited = field(default_factory=Inherited)
