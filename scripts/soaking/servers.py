"""The servers that soak: each verb as a process, and what its processes hold."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple, Self

import psutil

from tests.doubles import until

if TYPE_CHECKING:
    from pathlib import Path

# Seconds after which a server has let go of whoever says or takes nothing.
_REST = 80
# Threads and descriptors of a process that come with its first slow task.
_LATE = 2
_PORT = re.compile(r"127\.0\.0\.1:(\d+)")


class Held(NamedTuple):
    """What a server's processes hold.

    Attributes:
        processes: how many there are.
        descriptors: of all of them.
        threads: likewise.
        memory: in MB that no other process shares.
    """

    processes: int
    descriptors: int
    threads: int
    memory: float

    def exceeds(self, other: Held) -> bool:
        """Return whether there is more of anything than what is started late accounts for."""
        slack = _LATE * other.processes
        counts = zip(self[1:3], other[1:3], strict=True)
        return self[0] > other[0] or any(ours > theirs + slack for ours, theirs in counts)


class Server:
    """A verb of the command that serves."""

    def __init__(self, folder: Path, processes: int, verb: str, *words: str | Path) -> None:
        """Start it, and wait until it is ready.

        Args:
            folder: for what it says on stderr.
            processes: how many it has at rest.
            verb: which.
            words: its arguments.
        """
        self.name = f"{verb} --isolate-key" if "--isolate-key" in words else verb
        self._processes = processes
        with (folder / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tlsify", "--ktls", verb, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = _PORT.search(line)
        self.port = int(found[1]) if found else 0

    def __enter__(self) -> Self:
        """Serve."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def children(self) -> list[int]:
        """List its workers, and what it has besides."""
        root = psutil.Process(self.process.pid)
        return [child.pid for child in root.children(recursive=True)]

    def held(self) -> Held:
        """Count what all of its processes hold."""
        found = []
        root = psutil.Process(self.process.pid)
        for each in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                told = each.memory_full_info()
                memory = getattr(told, "uss", told.rss)  # some kernels do not say whose pages are
                found.append(Held(1, each.num_fds(), each.num_threads(), memory / 1e6))
        return Held(*(sum(column) for column in zip(*found, strict=True)))

    def rest(self, goal: Held | None = None) -> Held:
        """Wait until it has no connections any more; return what it holds then.

        Args:
            goal: what it held when it was at rest before; who takes nothing is waited for as long
                as servers wait for him.
        """
        until(lambda: self.held().processes <= self._processes, 120)
        if goal is not None:
            with contextlib.suppress(AssertionError):
                until(lambda: not self.held().exceeds(goal), _REST)
        return self.held()
