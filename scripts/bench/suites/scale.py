"""Scale: what each of many connections costs that are open and do nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench import client, peers, servers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing
from scripts.bench.web import SITES, Site, carried_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan
    from scripts.bench.servers import Running

_KIB = 1024
_CHILDREN = 4
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SETTLING = 0.3
_SPARE = 64  # descriptors for everything else
_NOTE = (
    "Memory is that of the server's processes, what they share counted once, over what they had "
    "before; kernel memory is that of both ends of the connections. Each round has a server of its "
    "own. Latency is that of handshakes of four clients at a time while the connections are there."
)
CONTENDERS = {
    "tlsify serve, kernel": SITES["tlsify serve, kernel"],
    "tlsify serve, relay": SITES["tlsify serve, relay"],
    "tlsify forward": Site(servers.forward("auto")),
    "nginx, kernel": SITES["nginx, kernel"],
    "nginx": SITES["nginx"],
    "haproxy": Site(servers.haproxy),
    "hitch": Site(servers.hitch),
    "stunnel": Site(servers.stunnel),
    "aiohttp + ssl": SITES["aiohttp + ssl"],
}
# Descriptors that some need for each connection: its way on, and a relay's socketpair.
_DESCRIPTORS = {
    "tlsify serve, kernel": 2,
    "tlsify serve, relay": 4,
    "tlsify forward": 4,
    "haproxy": 2,
    "hitch": 2,
    "stunnel": 2,
}
# Who takes so much memory for each, a backend's thread included, that a guest, which has 1 GiB,
# has not enough for many.
_LARGE = frozenset(("tlsify serve, relay", "tlsify forward", "hitch", "stunnel", "aiohttp + ssl"))
_FEW = 1_000
# The others run in other suites' smoke, and one after the other they take their time.
_SMOKE = ("tlsify serve, relay", "nginx")


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each number of connections, idle and in their handshakes."""
    if plan.smoke:
        works = [(10, False)]
    else:
        works = [(count, False) for count in (10, 100, 1_000, 10_000)]
        works += [(count, True) for count in (10, 100, 500)]
    names = _SMOKE if plan.smoke else CONTENDERS
    for count, stalled in works:
        what = "connections that say nothing" if stalled else "idle connections"
        yield Experiment(
            title=f"{count:,} {what}",
            contenders=tuple(_contender(plan, name, count, stalled=stalled) for name in names),
            figure="memory",
            unit="KiB per connection",
            reference="nginx",
            note=_NOTE,
        )


def _contender(plan: Plan, name: str, count: int, *, stalled: bool) -> Contender:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        if peers.IN_GUEST and count > _FEW and name in _LARGE:
            raise Missing("the guest has too little memory")
        needed = count * _DESCRIPTORS.get(name, 1) + _SPARE
        if needed > (limit := resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
            raise Missing(f"no more than {limit:,} descriptors are allowed, it needs {needed:,}")
        shown = make(plan.folder, "ECDSA")

        def turn() -> dict[str, float]:
            site = CONTENDERS[name]
            with carried_by(kernel=site.ktls), site.start(plan.setting(shown)) as running:
                # One, for what is made once.
                client.in_children(plan.load_core, client.latencies, running.port, 1)
                return _measure(plan, name, running, count, stalled=stalled)

        yield turn

    return Contender(name, start)


def _measure(
    plan: Plan, name: str, running: Running, count: int, *, stalled: bool
) -> dict[str, float]:
    before, kernel = running.memory(), _kernel_memory()
    with client.held(plan.load_core, running.port, count, stalled=stalled):
        pause = 0.01 if plan.smoke else _SETTLING
        time.sleep(pause)
        found = {
            "memory": (running.memory() - before) / count / _KIB,
            "kernel KiB": (_kernel_memory() - kernel) / count / _KIB,
        }
        idle = running.cpu()
        time.sleep(pause if plan.smoke else 2.0)
        found["idle CPU %"] = 100 * (running.cpu() - idle) / (pause if plan.smoke else 2.0)
        each = client.in_children(
            plan.load_core,
            client.latencies,
            *(running.port, 2 if plan.smoke else 250),
            children=_CHILDREN,
        )
        taken = sorted(value for one in each for value in one)
        for label, part in (("p50", 500), ("p99", 990), ("p99.9", 999)):
            found[f"handshake {label} ms"] = taken[len(taken) * part // 1000]
        if name.startswith("tlsify"):
            found["tlsify status ms"] = _status()
    return found


def _status() -> float:
    words = servers.tlsify("status")
    begun = time.perf_counter()
    subprocess.run(
        words.words,
        env=os.environ | words.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return 1e3 * (time.perf_counter() - begun)


def _kernel_memory() -> int:
    """Return bytes of what the kernel has for sockets and in its caches."""
    total = 0
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            total += int(line.split()[-1]) * _PAGE
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SUnreclaim:"):
            total += int(line.split()[1]) * _KIB
    return total
