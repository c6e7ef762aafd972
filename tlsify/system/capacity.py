"""Number of threads that our processes can have for connections, and its limits."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
# What a process needs besides: its loop, what watches over it, and the pool of that loop, whose
# size is concurrent.futures.ThreadPoolExecutor's.
_OWN_THREADS = 8 + min(32, (os.cpu_count() or 1) + 4)
# Of what is there for all, this part is left to others, and to a generation that is draining.
_SPARE = 10
# A stack, and the page in front of it that nobody may touch (pthread_attr_setguardsize(3)).
_MAPS_EACH = 2
# /proc/self/uid_map of whoever is in the namespace that the kernel began with (user_namespaces(7)).
_EVERYBODY = ["0", "0", str(2**32 - 1)]

# What a file is like that is not there, or says something else.
_UNTOLD = (OSError, ValueError, LookupError)


class Bound(NamedTuple):
    """A number, and the limit that it comes from, by the name under which it can be raised."""

    most: int
    name: str


def threads(processes: int, user: int) -> Bound:
    """Return how many threads for connections processes can have, all of them together.

    What they and their predecessors have already, children of this process, is theirs.

    Args:
        processes: how many there will be.
        user: as whom they run.
    """
    ours, others = _count(user)
    shared = [*_of_user(user, others), *_of_groups(ours), *_of_kernel(ours)]
    own = _OWN_THREADS * processes
    bounds = [Bound(most - most // _SPARE - own, name) for most, name in shared]
    bounds += [Bound(most * processes - own, name) for most, name in _of_memory()]
    most, name = min(bounds, default=Bound(2**31, "nothing"))
    return Bound(max(most, 1), name)


def _of_user(user: int, others: int) -> Iterator[Bound]:
    """Root of the initial namespace is not bound (kernel/fork.c copy_process)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    with contextlib.suppress(*_UNTOLD):
        is_bound = user != 0 or (_PROC / "self/uid_map").read_text().split() != _EVERYBODY
        if is_bound and soft != resource.RLIM_INFINITY:
            yield Bound(soft - others, "ulimit -u")


def _of_groups(ours: int) -> Iterator[Bound]:
    """Each control group on the way to the root has a limit of its own, in either version."""
    with contextlib.suppress(*_UNTOLD):
        for line in (_PROC / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "pids" not in controllers.split(","):
                continue
            roots = [_CGROUPS / "pids"] if controllers else [_CGROUPS, _CGROUPS / "unified"]
            inside = PurePosixPath(path.lstrip("/"))
            for folder in (root / each for root in roots for each in (inside, *inside.parents)):
                # Not there: it is the root, or what we see has another root.
                with contextlib.suppress(*_UNTOLD):
                    most, current = (
                        int((folder / name).read_text()) for name in ("pids.max", "pids.current")
                    )
                    yield Bound(most - max(current - ours, 0), f"{folder}/pids.max")


def _of_kernel(ours: int) -> Iterator[Bound]:
    with contextlib.suppress(*_UNTOLD):
        running = (_PROC / "loadavg").read_text().split()[3]
        others = max(int(running.partition("/")[2]) - ours, 0)
        for name in ("threads-max", "pid_max"):
            most = int((_PROC / "sys/kernel" / name).read_text())
            yield Bound(most - others, f"kernel.{name}")


def _of_memory() -> Iterator[Bound]:
    """Return how many stacks one process can have: their number is limited, if not their size."""
    with contextlib.suppress(*_UNTOLD):
        most = int((_PROC / "sys/vm/max_map_count").read_text())
        present = (_PROC / "self/maps").read_text().count("\n")
        yield Bound((most - present) // _MAPS_EACH, "vm.max_map_count")


def _count(user: int) -> tuple[int, int]:
    """Count the threads of this process and its descendants, and a user's that are not of those."""
    found: dict[int, tuple[int, int, int]] = {}
    for entry in _PROC.glob("[1-9]*"):
        if entry.name.isdigit():
            with contextlib.suppress(*_UNTOLD):  # it has ended
                found[int(entry.name)] = _look(entry)
    ours = {os.getpid()}
    while more := {pid for pid, each in found.items() if each[0] in ours} - ours:
        ours |= more
    return (
        sum(found[pid][2] for pid in ours if pid in found),
        sum(
            number for pid, (_, owner, number) in found.items() if owner == user and pid not in ours
        ),
    )


def _look(entry: Path) -> tuple[int, int, int]:
    """Return a process's parent, real uid and number of threads (proc(5))."""
    lines = (entry / "status").read_text("utf-8", "replace").splitlines()
    said = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return int(said["PPid"][0]), int(said["Uid"][0]), int(said["Threads"][0])
