"""The hand-off: what tlsify adds after the handshake, step by step."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from scripts.bench.interleave import Contender, Experiment, Missing
from tlsify.codepoints import CipherSuite
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.crypto_info import pack
from tlsify.ktls.probe import capabilities
from tlsify.system import scm_rights
from tlsify.tls import schedule
from tlsify.tls.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan

_SUITE = CipherSuite.TLS_AES_128_GCM_SHA256
_SECRET = bytes(range(32))
_NOTE = (
    "Each step over and over in one process, for one connection: both directions' keys, a socket. "
    "Steps at the socket need the kernel; in a uml guest each system call costs 12 µs more than it "
    "would elsewhere."
)


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return the one experiment; a contender is a step."""
    steps: dict[str, Callable[[int], float]] = {
        "derive 2 keys from secrets": _derive,
        "pack 2 crypto_info": _pack,
        "attach the ULP": _attach,
        "install RX": lambda count: _install(count, Direction.RX),
        "install TX": lambda count: _install(count, Direction.TX),
        "make the session": _session,
        "dup": _dup,
        "pass the descriptor (SCM_RIGHTS)": _pass,
    }
    yield Experiment(
        title="steps of a hand-off",
        contenders=tuple(
            Contender(name, partial(_turn, plan, work)) for name, work in steps.items()
        ),
        figure="time",
        unit="µs",
        reference="derive 2 keys from secrets",
        note=_NOTE,
    )


@contextlib.contextmanager
def _turn(plan: Plan, work: Callable[[int], float]) -> Iterator[Turn]:
    work(1)
    count = 5 if plan.smoke else 1000
    yield lambda: {"time": 1e6 * work(count) / count}


def _timed(count: int, step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - begun


def _derive(count: int) -> float:
    def both() -> None:
        schedule.traffic_keys(_SUITE, _SECRET)
        schedule.traffic_keys(_SUITE, _SECRET)

    return _timed(count, both)


def _pack(count: int) -> float:
    keys = schedule.traffic_keys(_SUITE, _SECRET)

    def both() -> None:
        pack(keys)
        pack(keys)

    return _timed(count, both)


def _session(count: int) -> float:
    def make() -> Session:
        tx_secret, rx_secret = bytearray(_SECRET), bytearray(_SECRET)
        return Session(
            _SUITE, is_client=False, can_rekey=True, tx_secret=tx_secret, rx_secret=rx_secret
        )

    return _timed(count, make)


def _dup(count: int) -> float:
    with socket.socket() as sock:
        return _timed(count, lambda: os.close(os.dup(sock.fileno())))


def _pass(count: int) -> float:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there, socket.socket() as sock:

        def step() -> None:
            scm_rights.send(here, b"x" * 100, sock.fileno())
            _, descriptor = scm_rights.receive(there, 200)
            if descriptor is not None:
                os.close(descriptor)

        return _timed(count, step)


def _attach(count: int) -> float:
    return _on_sockets(count, ulp.attach, attached=False)


def _install(count: int, direction: Direction) -> float:
    keys = schedule.traffic_keys(_SUITE, _SECRET)
    return _on_sockets(count, lambda sock: ulp.install(sock, direction, keys), attached=True)


def _on_sockets(count: int, step: Callable[[socket.socket], object], *, attached: bool) -> float:
    """Time what can be done to a socket once only."""
    if (refusal := capabilities().refusal) is not None:
        raise Missing(f"no kernel TLS: {refusal.code}")
    taken = 0.0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(count):
            sock = socket.create_connection(listener.getsockname())
            with sock, listener.accept()[0]:
                if attached:
                    ulp.attach(sock)
                begun = time.perf_counter()
                step(sock)
                taken += time.perf_counter() - begun
    return taken
