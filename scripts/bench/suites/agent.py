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
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy
from tlsify.connection.establish import connect
from tlsify.credentials.anchors import TrustAnchors
from tlsify.names import ReferenceIdentifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.bench.credentials import Credentials
    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan
    from tlsify.connection.handoff import Handoff

    # What does a handshake, and the processor seconds that others spend on it.
    Way = tuple[Callable[[socket.socket], Handoff], Callable[[], float]]


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return the one experiment."""
    shown = make(plan.folder, "ECDSA")
    yield Experiment(
        title="a client's handshake, TLS 1.3, the server's part included",
        contenders=(
            Contender("tlsify library", lambda: _turn(plan, shown, _in_process)),
            Contender("tlsify agent", lambda: _turn(plan, shown, _by_agent)),
        ),
        figure="cpu",
        unit="ms of CPU for each",
        reference="tlsify library",
        note="Processor time of the client and, where there is one, the agent; wall time is the "
        "median of each round, in which the agent shares a core with the server. Relayed where "
        "there is no kernel TLS.",
    )


@contextlib.contextmanager
def _in_process(_: Plan, shown: Credentials) -> Iterator[Way]:
    config = ClientConfig(
        server_name="localhost",
        identities=(ReferenceIdentifier.for_host("localhost"),),
        trust=TrustAnchors.load(shown.authority),
    )
    yield lambda sock: connect(sock, config, KtlsPolicy(KtlsMode.AUTO)), lambda: 0.0


@contextlib.contextmanager
def _by_agent(plan: Plan, shown: Credentials) -> Iterator[Way]:
    place = plan.folder / "agent-place"
    request = agent.ClientRequest(
        server_name="localhost",
        identities=("dns:localhost",),
        trust=str(shown.authority),
        ktls="auto",
    )
    with started(servers.tlsify("agent", "--workers", 1, place), core=plan.core) as process:
        process.await_path(place)
        yield lambda sock: agent.connect(place, sock, request), process.cpu


@contextlib.contextmanager
def _turn(
    plan: Plan,
    shown: Credentials,
    way: Callable[[Plan, Credentials], contextlib.AbstractContextManager[Way]],
) -> Iterator[Turn]:
    setting = plan.setting(shown)
    server = servers.python_server("cpython")(setting)
    with server as running, way(plan, shown) as (work, cpu):

        def turn() -> dict[str, float]:
            wall: list[float] = []
            own, agents = time.process_time(), cpu()
            for _ in range(3 if plan.smoke else 1000):
                sock = socket.create_connection(("127.0.0.1", running.port))
                begun = time.perf_counter()
                handed = work(sock)
                wall.append(time.perf_counter() - begun)
                handed.close()
                if handed.relay is not None:
                    handed.relay.join()
            own, agents = time.process_time() - own, cpu() - agents
            return {
                "cpu": 1e3 * (own + agents) / len(wall),
                "own CPU ms": 1e3 * own / len(wall),
                "wall ms": 1e3 * statistics.median(wall),
            }

        yield turn
