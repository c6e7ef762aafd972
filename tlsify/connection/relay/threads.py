"""The threads that run relays: few, and each runs as many as there are."""

from __future__ import annotations

import os

from tlsify.connection.event_thread import EventThread, Task

# A second thread pays where OpenSSL can compute in it meanwhile: the interpreter's lock is one.
_MOST = max(1, min(4, len(os.sched_getaffinity(0)) // 2))

_threads = [EventThread[Task]("tlsify-relay") for _ in range(_MOST)]


def run(relay: Task) -> None:
    """Have a thread run a relay: the one with the fewest.

    Raises:
        OSError: there is no descriptor or memory for the first thread's waiting.
        RuntimeError: there is not one thread to be had.
    """
    best = min(_threads, key=len)
    try:
        best.add(relay)
    except (OSError, RuntimeError, MemoryError):
        others = [each for each in _threads if each.is_running and each is not best]
        if not others:
            raise
        min(others, key=len).add(relay)


def _after_fork() -> None:
    for each in _threads:
        each.forget()


os.register_at_fork(after_in_child=_after_fork)
