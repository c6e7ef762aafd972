"""Programs under measurement: started on their core, waited for, accounted for, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench import peers
from scripts.bench.interleave import Missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scripts.bench.peers import Words

# Everybody starts at the same time, and a guest's processor may be emulated.
_START_SECONDS = 300.0 if peers.IN_GUEST else 20.0
_END_SECONDS = 1.0
_PAUSE = 0.01
_TICK = os.sysconf("SC_CLK_TCK")
_KIB = 1024
# CPUCLOCK_SCHED: in the low bits of a clock's number, behind those of a process.
_BY_SCHEDULER = 2


_given: set[int] = set()


def free_port() -> int:
    """Return a port of loopback that nobody uses now, and that was not given before."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port: int = sock.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


@dataclass(frozen=True)
class Program:
    """A running program with all its descendants."""

    pid: int

    def pids(self, *, descendants: bool = True) -> list[int]:
        """List its processes that live."""
        found = [self.pid]
        children = _children() if descendants else {}
        for pid in found:
            found += children.get(pid, ())
        return found

    def cpu(self, *, descendants: bool = True) -> float:
        """Return processor seconds, user and system, in steps of a clock tick.

        Those of threads and waited-for children that are gone are in it.
        """
        ticks = 0
        for pid in self.pids(descendants=descendants):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11 : 15 if descendants else 13]))
        return ticks / _TICK

    def run_time(self) -> float:
        """Return processor seconds of its processes that live, by the scheduler's own clock."""
        return sum(time.clock_gettime(~pid << 3 | _BY_SCHEDULER) for pid in self.pids())

    def await_path(self, path: Path) -> None:
        """Wait until a file or socket is there.

        Raises:
            RuntimeError: it is not, after a while, or the program has ended.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not path.exists():
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z" or time.monotonic() > deadline:
                raise RuntimeError(f"no {path.name}: it did not get ready")
            time.sleep(_PAUSE)

    def memory(self) -> int:
        """Return bytes of memory; what processes share is counted once, or not at all."""
        return sum(map(_memory, self.pids()))


def _memory(pid: int) -> int:
    """Return a process's part of what it shares; what is its alone where no more is known."""
    for name, label in (("smaps_rollup", "Pss:"), ("status", "RssAnon:")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                if line.startswith(label):
                    return int(line.split()[1]) * _KIB
    return 0


def _children() -> dict[int, list[int]]:
    """Return the parents of all processes. Not every kernel lists children in /proc."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(path.name))
    return found


@contextlib.contextmanager
def started(
    words: Words | None,
    port: int | None = None,
    *,
    core: int | None = None,
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Program]:
    """Run a program beside this one until the block ends.

    Args:
        words: what to run.
        port: of loopback; once it takes connections the program is ready.
        core: where it may run; anywhere if None.
        folder: its working directory.
        pass_fds: descriptors that it inherits.

    Raises:
        Missing: there is no such program.
        RuntimeError: it ended, or did not get ready.
    """
    if words is None:
        raise Missing(peers.NOT_INSTALLED)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words.words,
            env=os.environ | words.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        try:
            if core is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(process.pid, {core})
            if port is not None:
                _await_port(process, port, output.fileno())
            yield Program(process.pid)
            if process.poll() is not None:
                print(_farewell(process, output.fileno()), file=sys.stderr)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all of its session: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, output: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(_PAUSE)
    raise RuntimeError(_farewell(process, output))


def _farewell(process: subprocess.Popen[bytes], output: int) -> str:
    """Return how a program ended, or that it did not even get ready, and what it said."""
    said = os.pread(output, 2000, 0).decode(errors="replace").strip()
    state = "did not get ready" if process.poll() is None else f"ended with {process.returncode}"
    return f"{process.args!r}: {state}: {said}"
