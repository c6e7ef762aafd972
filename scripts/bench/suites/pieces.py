"""Answers in pieces, as a program that makes them writes them, and as HTTP/2's frames are."""

from __future__ import annotations

import contextlib
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from scripts.bench import client, servers
from scripts.bench.credentials import make
from scripts.bench.fetching import Meter, Plain
from scripts.bench.interleave import Contender, Experiment
from scripts.bench.web import carried_by

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from OpenSSL import SSL

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan

_REQUEST = struct.Struct(">II")
_ROOM = 2**20
_SIZES = (256, 1 << 10, 4 << 10, 16 << 10)
_NOTE = (
    "Wall time, in a guest on one core, with the client, which decrypts nothing. Each piece is one "
    "call of sendall(), one system call and one record, over the kernel as over CPython's ssl."
)


class _Way(NamedTuple):
    """How the writing program is started, and what it speaks."""

    word: str
    tls: bool = True
    ktls: bool = False


_WAYS = {
    "tlsify, kernel": _Way("auto", ktls=True),
    "tlsify, relay": _Way("off"),
    "CPython ssl": _Way("cpython"),
    "plain": _Way("plain", tls=False),
}


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each size."""
    for size in _SIZES[:1] if plan.smoke else _SIZES:
        yield Experiment(
            title=f"pieces of {size:,} bytes",
            contenders=tuple(_contender(plan, name, size) for name in _WAYS),
            figure="each",
            unit="µs for each",
            reference="CPython ssl",
            note=_NOTE,
        )


def _contender(plan: Plan, name: str, size: int) -> Contender:
    way = _WAYS[name]
    count = 20 if plan.smoke else 4000

    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        setting = plan.setting(make(plan.folder, "ECDSA"))
        shown = setting.credentials
        arguments = (way.word, shown.certificate, shown.key)
        with servers.python_program(setting, "python_writer.py", *arguments) as running:

            def turn() -> dict[str, float]:
                with carried_by(kernel=way.ktls):
                    (seconds,) = client.in_children(
                        plan.load_core, _load, running.port, size, count, way.tls
                    )
                return {"each": 1e6 * seconds / count, "MB/s": size * count / 1e6 / seconds}

            yield turn

    return Contender(name, start)


def _load(port: int, size: int, count: int, tls: bool) -> float:
    """Receive all pieces; return the seconds."""
    meter: Meter | Plain = Meter() if tls else Plain()
    source: SSL.Connection | socket.socket
    if tls:
        source, sock = client.shake(client.context(client.Offer()), port)
    else:
        source = sock = client.dial(port)
    with sock:
        source.recv(1)  # behind the tickets, if there are any
        begun = time.perf_counter()
        source.send(_REQUEST.pack(size, count))
        room = bytearray(_ROOM)
        while meter.plaintext < size * count:
            if not (received := sock.recv_into(room)):
                raise RuntimeError("the server closed the connection")
            with memoryview(room) as view:
                meter.feed(view[:received])
        return time.perf_counter() - begun
