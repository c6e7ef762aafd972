"""Counts that do not depend on time: system calls, bytes copied, records, for each megabyte."""

from __future__ import annotations

import collections
import contextlib
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from scripts.bench import client, peers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing
from scripts.bench.suites.bulk import Work, fetch, write_file
from scripts.bench.web import SITES, carried_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan
    from scripts.bench.servers import Running

# Calls whose result is how many bytes they carried between user space and the kernel.
_READING = ("read", "readv", "pread64", "preadv", "recvfrom", "recvmsg")
_WRITING = ("write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg")
COPYING = frozenset(_READING + _WRITING)
# Those that move bytes inside the kernel.
INSIDE = frozenset(("sendfile", "splice"))
# The other columns; what is in none of them is in the sum.
KINDS = {
    "reading": _READING,
    "writing": _WRITING,
    "sendfile": ("sendfile",),
    "splice": ("splice",),
    "waiting": ("poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "futex"),
    "watching": ("epoll_ctl", "setsockopt", "getsockopt", "fcntl", "ioctl"),
    "files": ("openat", "close", "newfstatat", "fstat", "statx", "lseek", "readlink"),
}
_CALL = re.compile(r"^(?:\d+\s+)?(?:<\.\.\. )?(\w+)(?:\(| resumed).*?=\s+(-?\d+)")
_ATTACH_SECONDS = 20.0
_SMALL = 1 << 20
_NOTE = (
    "strace of the server, all its processes, while files of that size are fetched; no figure here "
    "is a time, so the guest may emulate its processor."
)


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for a large file and one for small ones."""
    works = (Work(1 << 20, 2, 1),) if plan.smoke else (Work(16 << 20, 2, 0), Work(4 << 10, 256, 1))
    for work in works:
        large = work.size >= _SMALL
        yield Experiment(
            title=work.title,
            contenders=tuple(_contender(plan, name, work) for name in SITES),
            figure="calls",
            unit="system calls per MB" if large else "system calls per file",
            reference="nginx, kernel",
            note=_NOTE,
        )


def _contender(plan: Plan, name: str, work: Work) -> Contender:
    site = SITES[name]

    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        if work.connections and not site.keeps:
            raise Missing("keeps no connection")
        if (strace := peers.find("strace")) is None:
            raise Missing(str(peers.missing("strace")))
        path = write_file(plan.folder, work.size)
        with site.start(plan.setting(make(plan.folder, "ECDSA"))) as running:

            def turn() -> dict[str, float]:
                trace = plan.folder / "trace"
                with carried_by(kernel=site.ktls), traced(strace, running, trace):
                    (found,) = client.in_children(
                        plan.load_core, _load, running.port, path, work, site.tls
                    )
                per = found["bytes"] / 1e6 if work.size >= _SMALL else found["answers"]
                calls, copied, inside = tally(trace.read_text(errors="replace").splitlines())
                return {
                    "calls": sum(calls.values()) / per,
                    "copied per byte": copied / found["bytes"],
                    "moved per byte": inside / found["bytes"],
                    "records": found["records"] / per,
                } | {kind: sum(calls[name] for name in of) / per for kind, of in KINDS.items()}

            yield turn

    return Contender(name, start)


def _load(port: int, path: str, work: Work, tls: bool) -> dict[str, float]:
    return fetch(port, path, work, tls=tls)


@contextlib.contextmanager
def traced(strace: peers.Words, running: Running, trace: Path) -> Iterator[None]:
    """Write a server's system calls into a file, until the block ends."""
    pids = [pid for program in running.programs for pid in program.pids()]
    words = [*strace.words, "-f", "-qq", "-s", "0", "-o", str(trace)]
    for pid in pids:
        words += ["-p", str(pid)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        _await_tracer(pids, process)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _await_tracer(pids: list[int], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _ATTACH_SECONDS
    for pid in pids:
        while f"TracerPid:\t{process.pid}" not in _status(pid):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("strace does not attach")
            time.sleep(0.01)


def _status(pid: int) -> str:
    with open(f"/proc/{pid}/status") as reader:
        return reader.read()


def tally(lines: list[str]) -> tuple[collections.Counter[str], int, int]:
    """Count system calls; return how many of each, bytes copied, and bytes moved in the kernel."""
    calls: collections.Counter[str] = collections.Counter()
    copied = inside = 0
    for line in lines:
        if (match := _CALL.match(line)) is None:
            continue
        name, result = match[1], int(match[2])
        calls[name] += 1
        if result > 0:
            copied += result if name in COPYING else 0
            inside += result if name in INSIDE else 0
    return calls, copied, inside
