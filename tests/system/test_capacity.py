"""Tests of capacity: limits of the user, of control groups and of the kernel, in files."""

from __future__ import annotations

import os
import resource
import threading
from typing import TYPE_CHECKING

import pytest

from tlsify.system import capacity
from tlsify.system.capacity import Bound, threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWN = 10
PLENTY = 10**6


class Host:
    """What a kernel tells: plenty of everything, and nothing else runs."""

    def __init__(self, root: Path) -> None:
        """Make the files."""
        self.root = root
        self.put("proc/loadavg", "0.1 0.1 0.1 1/10 4711")
        self.put("proc/sys/kernel/threads-max", str(PLENTY))
        self.put("proc/sys/kernel/pid_max", str(PLENTY))
        self.put("proc/sys/vm/max_map_count", str(PLENTY))
        self.put("proc/self/maps", "one\n" * 10)
        self.put("proc/self/uid_map", "0 0 4294967295\n")
        self.put("proc/self/cgroup", "0::/\n")
        self.process(os.getpid(), 1, 0, 10)

    def put(self, name: str, text: str) -> None:
        """Write a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, pid: int, parent: int, user: int, number: int) -> None:
        """Have a process, and so many threads in it."""
        status = f"Name:\ta: b\nPPid:\t{parent}\nUid:\t{user}\t0\t0\t0\nThreads:\t{number}\n"
        self.put(f"proc/{pid}/status", status)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The only one that there is."""
    monkeypatch.setattr(capacity, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(capacity, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(capacity, "_OWN_THREADS", OWN)
    infinity = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (infinity, infinity))
    return Host(tmp_path)


@pytest.fixture
def limited(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """One whose users may have a hundred threads each."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    return host


def test_of_user(limited: Host) -> None:
    """The soft limit, less what the user has elsewhere; what is ours already does not count."""
    me = os.getpid()
    limited.process(me + 1, me, 5, 30)
    limited.process(me + 2, me + 1, 5, 30)
    limited.process(me + 3, 1, 5, 40)
    limited.process(me + 4, 1, 6, 1000)
    assert threads(2, 5) == Bound(60 - 6 - 2 * OWN, "ulimit -u")


@pytest.mark.parametrize("namespace", ["0 0 4294967295\n", "0 100000 65536\n"])
def test_of_root(limited: Host, namespace: str) -> None:
    """It has no such limit where it is everybody's root, and in a container it has."""
    limited.put("proc/self/uid_map", namespace)
    assert (threads(1, 0).name == "ulimit -u") is not namespace.startswith("0 0")


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("0::/system.slice/tlsify.service", "groups"),
        ("0::/system.slice/tlsify.service", "groups/unified"),
        ("7:cpu,pids:/system.slice/tlsify.service", "groups/pids"),
        ("0::/elsewhere/tlsify.service", "groups"),
    ],
    ids=["v2", "hybrid", "v1", "container"],
)
def test_of_groups(host: Host, line: str, folder: str) -> None:
    """The nearest limit counts, be it ours or one above; of what is in it, what is not ours."""
    host.put("proc/self/cgroup", f"3:memory:/other\n{line}\n")
    host.put(f"{folder}/pids.max", "210")
    host.put(f"{folder}/pids.current", "20")
    host.put(f"{folder}/system.slice/pids.max", "max")
    host.put(f"{folder}/system.slice/pids.current", "20")
    assert threads(1, 0) == Bound(200 - 20 - OWN, f"{host.root / folder}/pids.max")
    host.put(f"{folder}/system.slice/tlsify.service/pids.max", "100")
    host.put(f"{folder}/system.slice/tlsify.service/pids.current", "10")
    if "elsewhere" not in line:
        found = threads(1, 0)
        assert found.most == 90 - OWN
        assert found.name.endswith("/tlsify.service/pids.max")


@pytest.mark.parametrize("name", ["threads-max", "pid_max"])
def test_of_kernel(host: Host, name: str) -> None:
    """All threads of the host count."""
    host.put(f"proc/sys/kernel/{name}", "1000")
    host.put("proc/loadavg", "0.1 0.1 0.1 1/210 4711")
    assert threads(3, 0) == Bound(800 - 80 - 3 * OWN, f"kernel.{name}")


def test_of_memory(host: Host) -> None:
    """Each process has its own, and shares it with nobody."""
    host.put("proc/sys/vm/max_map_count", "1010")
    assert threads(3, 0) == Bound(3 * 500 - 3 * OWN, "vm.max_map_count")


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("x")])
def test_kernel_that_tells_nothing(host: Host, spoil: Callable[[Path], object]) -> None:
    """What is not known does not bind."""
    for path in (host.root / "proc").rglob("*"):
        if path.is_file() and path.name != "cgroup":
            spoil(path)
    assert threads(1, 0) == Bound(2**31, "nothing")


def test_never_none(host: Host) -> None:
    """There is one at least."""
    host.put("proc/sys/kernel/pid_max", "20")
    assert threads(4, 0).most == 1


def test_here() -> None:
    """This host has threads for some connections, and counts ours."""
    assert threads(1, os.geteuid()).most > 1
    ours, _ = capacity._count(os.geteuid())
    ending = threading.Event()
    thread = threading.Thread(target=ending.wait)
    thread.start()
    assert capacity._count(os.geteuid())[0] >= ours + 1
    ending.set()
    thread.join()
