"""Numbers of connections' descriptors in a wrapped program, apart from the program's own."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tlsify.wrap.threads import Thread

# What select(2) can do. Programs that use it, and write past its end with higher numbers, have
# mostly been given a limit that protects them.
_SELECT = 1024
# A process's table of descriptors is as long as its highest number, and copied by each fork.
_MOST = 65536


class Numbers:
    """Free numbers, from the top down: the program's own descriptors get the lowest ones.

    So a program meets a number of ours only when it has nearly as many descriptors as it may have.
    Numbers beyond what select can do come when all others are taken.

    Attributes:
        base: where they begin, at a quarter of what select can do, or of the program's limit.
    """

    def __init__(self, soft: int, hard: int) -> None:
        """Begin.

        Args:
            soft: how many descriptors the program may have, to begin with.
            hard: how many it may allow itself.
        """
        self._ends = [min(soft, _SELECT)]
        if hard > _SELECT:
            self._ends.append(min(hard, _MOST))
        self.base = self._ends[0] // 4
        self._begins = [self.base, _SELECT][: len(self._ends)]
        self._next = [end - 1 for end in self._ends]

    @classmethod
    def of_this_process(cls) -> Self:
        """Go by this process's limits, which a program that it starts has, too."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(*(_MOST if each == resource.RLIM_INFINITY else each for each in limits))

    def free(self, thread: Thread) -> int | None:
        """Return a number that a process has not got; None if there is none.

        Args:
            thread: one of its threads, all of which wait or may open something else meanwhile.

        Raises:
            ProcessLookupError: it has ended.
        """
        most = _MOST
        with contextlib.suppress(PermissionError):  # it is another user's
            soft, _ = resource.prlimit(thread.pid, resource.RLIMIT_NOFILE)
            most = _MOST if soft == resource.RLIM_INFINITY else soft
        for at, (begin, limit) in enumerate(zip(self._begins, self._ends, strict=True)):
            end = min(limit, most)
            number = min(self._next[at], end - 1)
            for _ in range(end - begin):
                following = number - 1 if number > begin else end - 1
                if not thread.has(number):
                    self._next[at] = following
                    return number
                number = following
        return None
