"""The threads that run relays: a few, each for many connections."""

from __future__ import annotations

import logging
import os

from tlsify.connection import exit as interpreter
from tlsify.connection.event_thread import EventThread, Task
from tlsify.errors import SHORTAGES, ResourceError, TlsifyError
from tlsify.metrics.counters import Event, count

_log = logging.getLogger("tlsify")

# A second thread pays only while OpenSSL computes in it, without the interpreter's lock.
_MOST = max(1, min(4, len(os.sched_getaffinity(0)) // 2))

_threads = [EventThread[Task]("tlsify-relay") for _ in range(_MOST)]


def run(relay: Task) -> None:
    """Run a relay in the thread with the fewest.

    Raises:
        OSError: no descriptor or memory is available for the first thread's poller.
        RuntimeError: no thread is available.
    """
    best = min(_threads, key=len)
    try:
        best.add(relay)
    except (OSError, RuntimeError, MemoryError):
        others = [each for each in _threads if each.is_running and each is not best]
        if not others:
            raise
        min(others, key=len).add(relay)


def hold(holder: object) -> None:
    """Keep a thread for a relay that `holder` may start, before anything is promised to a peer.

    Raises:
        ResourceError: no thread, descriptor or memory is available for the first one.
    """
    running = (each for each in _threads if each.is_running)
    try:
        next(running, _threads[0]).hold(holder)
    except (OSError, RuntimeError, MemoryError) as exc:
        count(Event.SHORTAGE)
        raise ResourceError(exc, "no thread to relay connections") from exc


def let_go(holder: object) -> None:
    """End a hold; a no-op if there is none."""
    for each in _threads:
        each.let_go(holder)


def failed(exc: BaseException) -> TlsifyError:
    """Log that a relay has failed, and count it if that was for want; return its error."""
    failure: TlsifyError
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in SHORTAGES):
        failure = ResourceError(exc, "the relay of a connection")
        count(Event.SHORTAGE)
        _log.warning("%s", failure)
    else:
        failure = TlsifyError(f"relay: {type(exc).__name__}: {exc}")
        _log.error("the relay of a connection failed", exc_info=exc)
    failure.__cause__ = exc
    return failure


def _after_fork() -> None:
    for each in _threads:
        each.forget()


os.register_at_fork(after_in_child=_after_fork)
interpreter.at(interpreter.Moment.APPROACH, _threads[0].stand_by)
