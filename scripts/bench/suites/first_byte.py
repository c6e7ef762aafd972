"""First byte: how long a client waits for the first byte of a small answer, connecting included."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from scripts.bench import client, fetching
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment
from scripts.bench.suites.bulk import write_file
from scripts.bench.web import SITES, carried_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan

_SIZE = 4 << 10
_LEFT_OUT = ("haproxy + nginx", "stunnel + nginx", "openssl s_server, kernel")


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return the one experiment."""
    yield Experiment(
        title="4 KiB, TLS 1.3, one client",
        contenders=tuple(_contender(plan, name) for name in SITES if name not in _LEFT_OUT),
        figure="median",
        unit="ms",
        reference="nginx",
        note="Medians of each round: connect, a full handshake, a request, one byte of the answer.",
    )


def _contender(plan: Plan, name: str) -> Contender:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        path = write_file(plan.folder, _SIZE)
        with SITES[name].start(plan.setting(make(plan.folder, "ECDSA"))) as running:

            def turn() -> dict[str, float]:
                times = 3 if plan.smoke else 200
                work = (running.port, path, times, SITES[name].tls)
                with carried_by(kernel=SITES[name].ktls):
                    found: list[dict[str, float]] = client.in_children(plan.load_core, _load, *work)
                return found[0]

            yield turn

    return Contender(name, start)


def _load(port: int, path: str, times: int, tls: bool) -> dict[str, float]:
    return fetching.first_byte(port, path, times, tls=tls)
