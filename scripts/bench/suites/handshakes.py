"""Handshakes: what one costs a server, full and resumed."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scripts.bench import client, servers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan

_CHILDREN = 4
_HYBRID = "X25519MLKEM768"
CONTENDERS = {
    "tlsify, handshake alone": servers.python_server("tlsify_handshake"),
    "tlsify library": servers.python_server("tlsify_library"),
    "tlsify agent": servers.agent,
    "tlsify serve": servers.serve("auto"),
    "tlsify serve, key isolated": servers.serve("auto", "--isolate-key"),
    "CPython ssl": servers.python_server("cpython"),
    "CPython asyncio": servers.python_server("asyncio_ssl"),
    "nginx": servers.nginx,
    "haproxy": servers.haproxy,
    "stunnel": servers.stunnel,
    "openssl s_server": servers.s_server,
}
_NOTE = (
    "Processor time of the server, all its processes, system calls included; the client, the same "
    "for all, has a core of its own. stunnel's includes the connection to what is behind it, and "
    "that of the library and serve the relay's start where there is no kernel TLS."
)


@dataclass(frozen=True)
class _Case:
    offer: client.Offer
    kind: str

    @property
    def title(self) -> str:
        """How the tables call it."""
        how = "resumed" if self.offer.resumes else "full"
        return f"TLS {self.offer.version}, {self.kind}, {self.offer.group}, {how}"


def _cases(plan: Plan) -> list[_Case]:
    if plan.smoke:
        return [_Case(client.Offer(), "ECDSA")]
    usual = itertools.product(("1.3", "1.2"), ("ECDSA", "RSA"), (False, True))
    found = [_Case(client.Offer(version, resumes=how), kind) for version, kind, how in usual]
    return [*found, *(_Case(client.Offer("1.3", _HYBRID, how), "ECDSA") for how in (False, True))]


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each kind of handshake, and one with all cores."""
    for case in _cases(plan):
        yield _experiment(plan, case)
    if not plan.smoke:
        yield _all_cores(plan)


def _experiment(plan: Plan, case: _Case) -> Experiment:
    return Experiment(
        title=case.title,
        contenders=tuple(_contender(plan, name, case) for name in CONTENDERS),
        figure="cpu",
        unit="µs of CPU per handshake",
        reference="CPython ssl",
        note=_NOTE,
    )


def _contender(plan: Plan, name: str, case: _Case) -> Contender:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        setting = plan.setting(make(plan.folder, case.kind))
        with CONTENDERS[name](setting) as running:
            count = 5 if plan.smoke else 400

            def turn() -> dict[str, float]:
                before = running.cpu()
                found = client.in_children(
                    plan.load_core,
                    client.handshakes,
                    *(running.port, case.offer, count),
                    children=1 if plan.smoke else _CHILDREN,
                )
                spent = running.cpu() - before
                done = sum(one["done"] for one in found)
                resumed = sum(one["resumed"] for one in found)
                if case.offer.resumes and resumed < done:
                    raise Missing(f"resumed {resumed:.0f} of {done:.0f}")
                seconds = max(one["seconds"] for one in found)
                return {"cpu": 1e6 * spent / done, "rate": done / seconds}

            yield turn

    return Contender(name, start)


def _all_cores(plan: Plan) -> Experiment:
    """Share all cores among everything, with as many workers."""
    case = _Case(client.Offer(), "ECDSA")

    def contender(name: str) -> Contender:
        @contextlib.contextmanager
        def start() -> Iterator[Turn]:
            setting = plan.setting(make(plan.folder, case.kind))
            with CONTENDERS[name](replace(setting, core=None, workers=plan.cores)) as running:

                def turn() -> dict[str, float]:
                    children = _CHILDREN * plan.cores
                    work = (running.port, case.offer, 200)
                    found = client.in_children(None, client.handshakes, *work, children=children)
                    done = sum(one["done"] for one in found)
                    return {"rate": done / max(one["seconds"] for one in found)}

                yield turn

        return Contender(name, start)

    names = ("tlsify serve", "nginx", "haproxy")
    return Experiment(
        title=f"{case.title}, all cores, clients included",
        contenders=tuple(contender(name) for name in names),
        figure="rate",
        unit="handshakes/s",
        reference="nginx",
        more_is_better=True,
        note="As many workers as cores; the clients run on the same cores.",
    )
