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


class Server:
    """A verb of the command that serves."""

    def __init__(self, folder: Path, verb: str, *words: str | Path) -> None:
        """Start it, and wait until it is ready.

        Args:
            folder: for what it says on stderr.
            verb: which.
            words: its arguments.
        """
        self.name = verb
        with (folder / f"{verb}.log").open("wb") as log:
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
        """Take it down."""
        self.process.kill()
        self.process.communicate()

    def workers(self) -> list[int]:
        """List its children."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def held(self) -> Held:
        """Count what all of its processes hold."""
        found = []
        root = psutil.Process(self.process.pid)
        for each in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = each.memory_full_info().uss / 1e6
                found.append(Held(1, each.num_fds(), each.num_threads(), memory))
        return Held(*(sum(column) for column in zip(*found, strict=True)))

    def rest(self, processes: int) -> Held:
        """Wait until it has no connections any more; gives what it holds then."""
        until(lambda: self.held().processes <= processes, 120)
        last = [self.held()]

        def is_still() -> bool:
            last.append(self.held())
            return last[-1][:3] == last[-2][:3]

        until(is_still, 120)
        return last[-1]
