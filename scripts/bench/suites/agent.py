"""The agent: what it adds to a client's handshake, until the connection is handed over."""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from typing import TYPE_CHECKING

from scripts.bench import servers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment
from scripts.bench.processes import started
from tlsify import agent
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ReferenceIdentifier, TrustAnchors
from tlsify.opening import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.bench.credentials import Credentials
    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan
    from tlsify.handoff import Handoff

    Work = Callable[[socket.socket], Handoff]


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Give the one experiment."""
    shown = make(plan.folder, "ECDSA")
    yield Experiment(
        title="a client's handshake, TLS 1.3, the server's part included",
        contenders=(
            Contender("tlsify library", lambda: _turn(plan, shown, _in_process)),
            Contender("tlsify agent", lambda: _turn(plan, shown, _by_agent)),
        ),
        figure="wall",
        unit="ms",
        reference="tlsify library",
        note="Median of each round; relayed, so that both need no kernel.",
    )


@contextlib.contextmanager
def _in_process(_: Plan, shown: Credentials) -> Iterator[Work]:
    config = ClientConfig(
        server_name="localhost",
        identities=(ReferenceIdentifier.for_host("localhost"),),
        trust=TrustAnchors.load(shown.authority),
    )
    yield lambda sock: connect(sock, config, KtlsPolicy(KtlsMode.OFF))


@contextlib.contextmanager
def _by_agent(plan: Plan, shown: Credentials) -> Iterator[Work]:
    place = plan.folder / "agent-place"
    request = agent.ClientRequest(
        server_name="localhost",
        identities=("dns:localhost",),
        trust=str(shown.authority),
        ktls="off",
    )
    with started(servers.tlsify("agent", "--workers", 1, place), core=plan.core) as process:
        process.await_path(place)
        yield lambda sock: agent.connect(place, sock, request)


@contextlib.contextmanager
def _turn(
    plan: Plan,
    shown: Credentials,
    way: Callable[[Plan, Credentials], contextlib.AbstractContextManager[Work]],
) -> Iterator[Turn]:
    setting = plan.setting(shown)
    server = servers.python_server("cpython")(setting)
    with server as running, way(plan, shown) as work:

        def turn() -> dict[str, float]:
            wall: list[float] = []
            own = time.process_time()
            for _ in range(3 if plan.smoke else 300):
                sock = socket.create_connection(("127.0.0.1", running.port))
                begun = time.perf_counter()
                handed = work(sock)
                wall.append(time.perf_counter() - begun)
                handed.close()
                if handed.relay is not None:
                    handed.relay.join()
            own = time.process_time() - own
            return {"wall": 1e3 * statistics.median(wall), "own CPU ms": 1e3 * own / len(wall)}

        yield turn
