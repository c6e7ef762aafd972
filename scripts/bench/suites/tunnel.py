"""TLS to a server behind: megabytes for each second of one core, with clients of either kind."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING

from scripts.bench import client, pages, peers, servers, tunnels
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing, Turn
from scripts.bench.suites.counts import tally, traced
from scripts.bench.suites.relay import carry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench.plan import Plan
    from scripts.bench.servers import Running
    from scripts.bench.tunnels import Start

_NOTE = (
    "Processor time of the program in between alone; the client, and stunnel as the server behind, "
    "share the other core. TLS 1.3, AES-GCM, one connection. With TLS on both sides stunnel takes "
    "two services in one process."
)
_MORE = (
    " The ratio is that of seconds for a GB in which a system call costs what it does elsewhere: "
    "12 µs are taken off for each, as strace has counted them over 16 MiB."
)
_COUNTED = 2**24


def _contenders(*, is_client: bool) -> dict[str, Start]:
    mode = "require" if peers.IN_GUEST else "off"
    return {
        f"tlsify forward, {'kernel' if peers.IN_GUEST else 'relay'}": tunnels.forward(
            mode, is_client=is_client
        ),
        "stunnel": tunnels.stunnel(is_client=is_client),
        "haproxy": tunnels.haproxy(is_client=is_client),
    }


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each kind of client and direction."""
    for kind, is_client in (("plaintext to TLS", True), ("TLS to TLS", False)):
        for way, command in (("to the server", "<"), ("from the server", ">")):
            starts = _contenders(is_client=is_client)
            yield Experiment(
                title=f"{kind}, {way}",
                contenders=tuple(
                    _contender(plan, name, start, command, has_tls=not is_client)
                    for name, start in starts.items()
                ),
                figure="s without calls" if peers.IN_GUEST else "rate",
                unit="s for a GB, calls taken off" if peers.IN_GUEST else "MB per second of CPU",
                reference="stunnel",
                more_is_better=not peers.IN_GUEST,
                note=_NOTE + (_MORE if peers.IN_GUEST else ""),
            )


def _contender(plan: Plan, name: str, begin: Start, command: str, *, has_tls: bool) -> Contender:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        setting = plan.setting(make(plan.folder, "ECDSA"))
        behind = dataclasses.replace(setting, core=plan.load_core)
        with servers.stunnel(behind) as server:
            here = dataclasses.replace(setting, backend=server.port)
            with begin(here) as running:
                size = 2**21 if plan.smoke else 2**27 if peers.IN_GUEST else 2**29

                def turn() -> dict[str, float]:
                    before = running.cpu()
                    work = (running.port, command, size, has_tls)
                    (found,) = client.in_children(plan.load_core, carry, *work)
                    time.sleep(0 if plan.smoke else 0.2)
                    spent = running.cpu() - before
                    rate = size / 1e6 / spent if spent else 0.0
                    result = {"rate": rate, "wall MB/s": size / 1e6 / found["seconds"]}
                    if peers.IN_GUEST:
                        calls = _calls(plan, running, command, has_tls=has_tls)
                        per_gb = spent / size * 1e9
                        result |= {"s for a GB": per_gb, "calls for a MB": calls}
                        result["s without calls"] = per_gb - calls * pages.CALL_IN_GUEST
                    return result

                yield turn

    return Contender(name, start)


def _calls(plan: Plan, running: Running, command: str, *, has_tls: bool) -> float:
    """Return how many system calls it takes for a megabyte."""
    if (strace := peers.find("strace")) is None:
        raise Missing(str(peers.missing("strace")))
    trace = plan.folder / "trace"
    with traced(strace, running, trace):
        client.in_children(plan.load_core, carry, running.port, command, _COUNTED, has_tls)
    calls, _, _ = tally(trace.read_text(errors="replace").splitlines())
    return sum(calls.values()) / (_COUNTED / 1e6)
