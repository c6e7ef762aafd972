"""Duties of a supervisor of workers, besides keeping them running."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from tlsify.serving.errands import Errands

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.serving.generation import Work

# Seconds without a sign of life after which a worker is killed.
_PATIENCE = 30.0
# Seconds beyond their drain in which workers end, or are killed.
_LAST_STEPS = 10.0

# Workers that an earlier program in this process has left: pid and slot in the counters.
Former: TypeAlias = dict[int, int]


def _nothing(*_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorHooks:
    """Callbacks and settings of a supervisor.

    Attributes:
        on_ready: called once, when every worker accepts connections.
        on_stop: called when workers are told to drain for good; it has to close the listening
            sockets here, or connections would wait in them in vain.
        before_fork: called before each worker is forked.
        renew: gives the work of a new generation on SIGHUP; raises a TlsifyError if it is to stay
            as it was. None if there is no such thing.
        retire: called with the work of a generation once no more workers will be forked for it.
        refresh: does in its place what can be done without a new generation; raises a TlsifyError
            likewise. Without either SIGHUP is left alone.
        reopen_logs: called on SIGUSR1; None leaves that alone.
        watch: its value is looked at every few seconds; when it changes, that is as SIGHUP.
        seen: its value before the first generation's work was made.
        rehearse: starts a process that tries out, on SIGUSR2, whether a successor would start, and
            gives its pid. None leaves SIGUSR2 alone.
        succeed: has the successor take this process over, after the rehearsal went well.
        leave: seconds for which all goes on after a request to end, while it is reported.
        drain: seconds that workers give themselves to drain; None for any time.
        together: a worker that ends of itself, with status 0, has all of them drain.
        notify: tells the service manager (`service_manager.notify`).
        watchdog: seconds in which it wants to hear of us, or None.
        patience: seconds without a heartbeat after which a worker is killed, if it ever had one.
        errands: what is to be done now and then in processes of their own, while there are workers.
    """

    on_ready: Callable[[], None] = _nothing
    on_stop: Callable[[], None] = _nothing
    before_fork: Callable[[], None] = _nothing
    renew: Callable[[], Work] | None = None
    retire: Callable[[Work], object] = _nothing
    refresh: Callable[[], None] | None = None
    reopen_logs: Callable[[], None] | None = None
    watch: Callable[[], object] | None = None
    seen: object = None
    rehearse: Callable[[], int] | None = None
    succeed: Callable[[Former], NoReturn] | None = None
    leave: float = 0
    drain: float | None = None
    together: bool = False
    notify: Callable[[str], None] = _nothing
    watchdog: float | None = None
    patience: float = _PATIENCE
    errands: Errands = field(default_factory=lambda: Errands((), _nothing))

    @property
    def end_seconds(self) -> float | None:
        """Seconds from a request to end within which all workers have ended; None for any time."""
        return None if self.drain is None else self.leave + self.drain + _LAST_STEPS
