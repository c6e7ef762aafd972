"""A supervisor and its forked workers: readiness, restart, reload, drain, and a successor."""

from __future__ import annotations

import logging
import select
import signal
import time
from typing import TYPE_CHECKING

from tlsify.errors import TlsifyError, WorkerError
from tlsify.metrics.counters import SLOTS, Event, Gauge, count, put, reserve, vacate
from tlsify.serving.changes import Changes
from tlsify.serving.generation import SIGNALS, STOP_SIGNALS, Generation, Worker, ended
from tlsify.serving.heartbeats import Heartbeats
from tlsify.system.process import StopRequests
from tlsify.system.service_manager import ServiceManager
from tlsify.system.signal_pipe import SignalPipe
from tlsify.system.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlsify.serving.duty import Former, SupervisorHooks
    from tlsify.serving.generation import Work

_log = logging.getLogger("tlsify")

# Seconds for a new generation to be ready and for a rehearsal to end, and seconds beyond its
# deadline that a worker may take to drain, before they are killed.
_START_TIME = 60.0
_GRACE = 5.0
_PAUSE = 1.0


def run(number: int, work: Work, duty: SupervisorHooks, former: Former | None = None) -> None:
    """Run a worker in each of several forked processes, until SIGTERM or SIGINT.

    A worker that dies is replaced in its place, at once or, if it dies again and again, after a
    while; one that hangs is killed. SIGHUP starts a new generation; once all of it is ready the old
    one drains. SIGTERM and SIGINT have all of them drain; another one, a moment later, kills them.

    Args:
        number: of workers.
        work: what each does; it inherits the listening sockets and all else that is here.
        duty: further tasks.
        former: workers to drain as soon as ours are ready.

    Raises:
        WorkerError: at the start a worker has ended before it was ready.
    """
    _Supervisor(number, duty, former or {}).run(work)


class _Supervisor:
    def __init__(self, number: int, duty: SupervisorHooks, former: Former) -> None:
        self._number = number
        self._duty = duty
        now = time.monotonic()
        self._former = [Worker(pid, slot, now, is_ready=True) for pid, slot in former.items()]
        self._draining: list[Worker] = []
        self._current: Generation | None = None
        self._coming: Generation | None = None
        self._again = self._stopping = False
        self._leave_at: float | None = None
        self._requests = StopRequests()
        self._rehearsal: list[Worker] = []
        self._failure: WorkerError | None = None
        self._retry: tuple[float, Work] | None = None
        self._changes = Changes(duty.seen)
        self._look_at = now
        self._manager = ServiceManager(duty.notify, duty.watchdog)
        self._hearts = Heartbeats(duty.patience, now)
        self._terminal = Terminal()
        self._pipe = SignalPipe()

    # -- the loop

    def run(self, work: Work) -> None:
        self._pipe.catch(self._signals())
        try:
            self._start(work)
            while not self._stopping or self._all():
                self._wait()
                self._reap()
                self._look_after()
        finally:
            self._pipe.close(STOP_SIGNALS)
        if self._failure is not None:
            raise self._failure

    def _signals(self) -> frozenset[signal.Signals]:
        duty = self._duty
        acts = {
            signal.SIGHUP: duty.renew or duty.refresh,
            signal.SIGUSR1: duty.reopen_logs,
            signal.SIGUSR2: duty.rehearse and duty.succeed,
        }
        return SIGNALS - {number for number, act in acts.items() if act is None}

    def _generations(self) -> list[Generation]:
        return [each for each in (self._current, self._coming) if each is not None]

    def _all(self) -> list[Worker]:
        serving = [worker for each in self._generations() for worker in each.workers()]
        return [*serving, *self._former, *self._draining]

    def _wait(self) -> None:
        """Wait for a signal, a worker's message, or a due time."""
        poller = select.poll()
        poller.register(self._pipe.reader, select.POLLIN)
        starting = {worker.read_end: worker for worker in self._all() if worker.read_end != -1}
        for read_end in starting:
            poller.register(read_end, select.POLLIN)
        wait = max(self._next_due() - time.monotonic(), 0)
        for number, _ in poller.poll(wait * 1000 + 1):
            if number == self._pipe.reader:
                self._heed(self._pipe.read())
            elif starting[number].read_end == number:
                starting[number].listen()

    def _next_due(self) -> float:
        due = [time.monotonic() + 60, self._manager.due]
        if self._duty.watch is not None and not self._stopping and self._leave_at is None:
            due.append(self._look_at)
        if self._current is not None:
            due += [self._hearts.due, *self._duty.errands.due()]
        some = [*self._all(), *self._rehearsal]
        due += [each.deadline for each in some if each.deadline is not None]
        for generation in self._generations():
            due += generation.due()
        if self._coming is not None:
            due.append(self._coming.deadline)
        if self._retry is not None:
            due.append(self._retry[0])
        if self._leave_at is not None and not self._stopping:
            due.append(self._leave_at)
        return min(due)

    def _heed(self, numbers: bytes) -> None:
        is_hung_up = signal.SIGHUP in numbers and self._terminal.is_gone()
        if is_hung_up or STOP_SIGNALS.intersection(numbers):
            at_once = self._requests.insist()
            if at_once or not self._is_leaving():
                self._stop()
            for worker in self._all() if at_once else ():
                worker.kill(signal.SIGKILL)
        if signal.SIGUSR1 in numbers and self._duty.reopen_logs is not None:
            self._duty.reopen_logs()
        if self._stopping or self._leave_at is not None:
            return
        if signal.SIGHUP in numbers:
            self._duty.errands.wake(insisting=True)
            self._reload()
        if signal.SIGUSR2 in numbers:
            self._rehearse()

    # -- generations

    def _start(self, work: Work) -> None:
        self._retry = None
        self._coming = Generation(work, time.monotonic() + _START_TIME, {})
        for index in range(self._number):
            self._fork(self._coming, index)

    def _fork(self, generation: Generation, index: int) -> None:
        self._duty.before_fork()
        generation.fork(index, self._free_slot(), self._signals(), self._leave)

    def _leave(self) -> None:
        """Close the supervisor's descriptors in a worker."""
        self._pipe.drop()
        self._duty.errands.drop()
        for worker in self._all():
            worker.forget_pipe()

    def _free_slot(self) -> int:
        taken = {worker.slot for worker in self._all()}
        slot = next(each for each in range(1, SLOTS) if each not in taken)
        reserve(slot)
        return slot

    def _refresh(self) -> None:
        """Reload without a new generation."""
        self._manager.reloading()
        try:
            if self._duty.refresh is not None:
                self._duty.refresh()
        except TlsifyError as exc:
            self._refuse(str(exc))
        else:
            _log.info("reloaded")
            count(Event.RELOADED)
            self._tell()

    def _refuse(self, why: str) -> None:
        """Report that the previous workers go on."""
        _log.error("reload failed; keeping the previous workers: %s", why)
        count(Event.RELOAD_REFUSED)
        self._tell("not reloaded: " + why)

    def _reload(self) -> None:
        if self._duty.renew is None:
            self._refresh()
            return
        if self._coming is not None:
            self._again = True  # the starting workers may have seen half of a change
            return
        self._manager.reloading()
        if self._duty.watch is not None:
            self._changes.accept(self._duty.watch())  # what changes meanwhile shows the next time
        try:
            if len(self._all()) + self._number >= SLOTS:
                raise WorkerError(
                    "too many workers drain still", hint="reload less often, or shorten --drain"
                )
            self._start(self._duty.renew())
        except TlsifyError as exc:
            self._refuse(str(exc))

    def _promote(self, generation: Generation) -> None:
        """All of a new generation accept: the old one may go."""
        self._drain([*(self._current.workers() if self._current else ()), *self._former])
        self._former = []
        if self._current is None:
            self._duty.on_ready()
        else:
            self._duty.retire(self._current.work)
            _log.info("reloaded")
            count(Event.RELOADED)
        self._current, self._coming = generation, None
        self._duty.errands.wake()
        self._tell()
        if self._again:
            self._again = False
            self._reload()

    def _abandon(self, generation: Generation, why: str) -> None:
        """A new generation does not come up: the old one goes on."""
        for worker in generation.workers():
            worker.kill(signal.SIGKILL)
            worker.forget_pipe()
            self._draining.append(worker)
        self._coming = None
        if self._current is not None:
            self._duty.retire(generation.work)
            self._refuse(why)
            return
        if self._former:  # which go on
            _log.error("startup failed, retrying: %s", why)
            self._retry = time.monotonic() + _PAUSE, generation.work
            return
        self._failure = WorkerError(why, hint="see its earlier messages")
        self._stop()

    def _tell(self, trouble: str = "") -> None:
        """Report to the service manager that the server is ready, with its state."""
        drain = f", {len(self._draining)} of earlier ones drain" if self._draining else ""
        status = f"{self._number} workers{drain}{'; ' if trouble else ''}{trouble}"
        self._manager.ready(status)

    # -- what becomes of workers

    def _reap(self) -> None:
        for pid, code in ended():
            if self._duty.errands.bury(pid, code):
                self._look_at = time.monotonic()  # it may have brought something
            if pid in [each.pid for each in self._rehearsal]:
                self._rehearsal.clear()
                self._succeed(code)
                continue
            for worker in self._all():
                if worker.pid == pid:
                    self._bury(worker, code)

    def _bury(self, worker: Worker, code: int) -> None:
        worker.forget_pipe()
        vacate(worker.slot)
        for crowd in (self._former, self._draining):
            if worker in crowd:
                crowd.remove(worker)
                if not self._stopping:
                    self._tell()
                return
        for generation in self._generations():
            if (index := generation.index(worker)) is not None:
                self._replace(generation, index, worker, code)

    def _replace(self, generation: Generation, index: int, worker: Worker, code: int) -> None:
        if generation is self._coming:
            del generation.members[index]
            self._abandon(generation, f"worker {worker.pid} ended with status {code} at its start")
        elif code == 0 and self._duty.together:
            del generation.members[index]
            self._stop()
        else:
            _log.warning("worker %d ended with status %d and is replaced", worker.pid, code)
            count(Event.WORKER_RESTARTED)
            generation.mourn(index, time.monotonic())

    def _look_after(self) -> None:
        """Do all due tasks."""
        now = time.monotonic()
        for worker in [*self._all(), *self._rehearsal]:
            worker.kill_late(now)
        for generation in self._generations():
            for index, member in list(generation.members.items()):
                if isinstance(member, float) and member <= now:
                    self._fork(generation, index)
        self._look_at_coming(now)
        if self._current is not None:
            self._duty.errands.tend(now)
        self._set_gauges()
        # At the start and at the end each has a deadline.
        serving = None if self._current is None else self._current.workers()
        self._manager.feed(now, alive=serving is None or self._hearts.end_hung(serving, now))
        if self._leave_at is not None and self._leave_at <= now:
            self._stop()
        is_going = self._stopping or self._leave_at is not None
        if self._duty.watch is not None and now >= self._look_at and not is_going:
            if self._changes.look(self._duty.watch()):
                self._reload()
            self._look_at = now + self._changes.pause

    def _look_at_coming(self, now: float) -> None:
        if self._coming is not None and self._coming.is_ready():
            self._promote(self._coming)
        elif self._coming is not None and self._coming.deadline <= now:
            self._abandon(self._coming, f"the new workers are not ready after {_START_TIME:g} s")
        elif self._retry is not None and self._retry[0] <= now:
            self._start(self._retry[1])

    def _set_gauges(self) -> None:
        serving = [] if self._current is None else self._current.workers()
        put(Gauge.WORKERS, sum(worker.is_ready for worker in serving))
        put(Gauge.WORKERS_DRAINING, len(self._draining))
        put(Gauge.STOPPING, int(self._stopping or self._leave_at is not None))

    def _drain(self, some: Iterable[Worker]) -> None:
        for worker in some:
            worker.kill(signal.SIGTERM)
            if self._duty.drain is not None and worker.deadline is None:
                worker.deadline = time.monotonic() + self._duty.drain + _GRACE
            if worker not in self._draining:
                self._draining.append(worker)

    def _is_leaving(self) -> bool:
        """Return whether all goes on for a while: others have to learn first that it will end."""
        if self._leave_at is None and self._duty.leave and self._current is not None:
            self._leave_at = time.monotonic() + self._duty.leave
            self._manager.stopping(f"draining in {self._duty.leave:g} s", self._duty.end_seconds)
            self._set_gauges()
        return self._leave_at is not None

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._duty.errands.end()
        self._manager.stopping("draining", self._duty.end_seconds)
        self._set_gauges()
        self._duty.on_stop()
        self._drain(self._all())
        for each in self._rehearsal:
            each.kill(signal.SIGKILL)
        self._current = self._coming = self._retry = None
        self._former = []

    # -- the successor

    def _rehearse(self) -> None:
        if self._duty.rehearse is None or self._rehearsal:
            return
        now = time.monotonic()
        try:
            self._rehearsal = [Worker(self._duty.rehearse(), 0, now, deadline=now + _START_TIME)]
        except OSError as exc:
            _log.error("restart failed; this program goes on: %s", exc)

    def _succeed(self, code: int) -> None:
        if self._duty.succeed is None or self._stopping:
            return
        if code != 0 or self._coming is not None:
            why = "a reload is under way" if code == 0 else f"it ended with status {code}"
            _log.error("restart failed; this program goes on: %s", why)
            return
        # Signals in the pipe, such as a request to end, would be lost with this program.
        missed = b""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            missed = self._pipe.read()
            if not STOP_SIGNALS.intersection(missed):
                self._duty.errands.end()
                self._duty.succeed({worker.pid: worker.slot for worker in self._all()})
        except OSError as exc:
            _log.error("restart failed; this program goes on: %s", exc)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._heed(missed)
