"""The relay: megabytes for each second of one core, in both directions."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from scripts.bench import client, peers, servers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from scripts.bench.plan import Plan
    from scripts.bench.servers import Running, Setting

_PIECE = 2**14
_NOTE = (
    "Processor time of the relay alone; the client and what is behind the relay share the other "
    "core. TLS 1.3, AES-128-GCM, one connection."
)


def _python(way: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    def start(setting: Setting) -> AbstractContextManager[Running]:
        shown = setting.credentials
        arguments = (way, shown.certificate, shown.key, setting.backend)
        return servers.python_program(setting, "python_relay.py", *arguments)

    return start


def _unpackaged(program: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    def start(_: Setting) -> AbstractContextManager[Running]:
        raise Missing(str(peers.missing(program)))

    return start


CONTENDERS = {
    "tlsify forward": servers.forward("off"),
    "tlsify library": _python("tlsify"),
    "CPython ssl": _python("cpython"),
    "stunnel": servers.stunnel,
    "hitch": servers.hitch,
    "haproxy": servers.haproxy_relay,
    "socat": servers.socat,
    "ncat": servers.ncat,
    "s6-tlsd": _unpackaged("s6-tlsc"),
    "ghostunnel": _unpackaged("ghostunnel"),
}


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each direction."""
    for title, command in (("in: records to plaintext", b"<"), ("out: plaintext to records", b">")):
        yield Experiment(
            title=title,
            contenders=tuple(_contender(plan, name, command) for name in CONTENDERS),
            figure="rate",
            unit="MB per second of CPU",
            reference="stunnel",
            more_is_better=True,
            note=_NOTE,
        )


def _contender(plan: Plan, name: str, command: bytes) -> Contender:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        with CONTENDERS[name](plan.setting(make(plan.folder, "ECDSA"))) as running:
            size = 2**21 if plan.smoke else 2**30

            def turn() -> dict[str, float]:
                before = running.cpu()
                work = (running.port, command.decode(), size)
                (found,) = client.in_children(plan.load_core, carry, *work)
                # A process for the connection has to be gone before its time is in the books.
                time.sleep(0 if plan.smoke else 0.2)
                spent = running.cpu() - before
                rate = size / 1e6 / spent if spent else 0.0
                return {"rate": rate, "wall MB/s": size / 1e6 / found["seconds"]}

            yield turn

    return Contender(name, start)


def carry(port: int, command: str, size: int, has_tls: bool = True) -> dict[str, float]:  # noqa: FBT002
    """Send or receive over one connection, the one byte that ends sending included."""
    connection: Any
    if has_tls:
        connection, sock = client.shake(client.context(client.Offer()), port)
    else:
        connection = sock = client.dial(port)
    with sock:
        begun = time.perf_counter()
        connection.sendall(command.encode() + size.to_bytes(8, "big"))
        room = bytearray(_PIECE)
        if command == "<":
            for _ in range(size // _PIECE):
                connection.sendall(room)
            if connection.recv(1) != b".":
                raise RuntimeError("the end was not acknowledged")
        else:
            left = size
            while left:
                left -= connection.recv_into(room, min(left, _PIECE))
        return {"seconds": time.perf_counter() - begun}
