"""Files over HTTPS: what a gigabyte costs, server and client and kernel on one core."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from scripts.bench import client, fetching, peers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing
from scripts.bench.web import SITES, carried_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan

_NATIVE_NOTE = (
    "Processor time of the server and its children, the kernel's part for them included; the "
    "client has a core of its own."
)
_NOTE = (
    "Wall time, since everything shares one core: the client, which counts records by their "
    "headers and decrypts nothing, is in every figure. In a uml guest the cost of bytes is that of "
    "the processor, but a system call costs some 12 µs more than elsewhere: the counts say how "
    "many each contender makes. The cipher alone, in user space, and a plain server are together "
    "what TLS in the kernel has to cost."
)
_CIPHER = "AES-128-GCM alone"
_RECORD = 2**14
_one_at_a_time = threading.Lock()


class Work(NamedTuple):
    """What is fetched: a file's size, how often, over how many connections; 0: one for each."""

    size: int
    times: int
    connections: int

    @property
    def title(self) -> str:
        """How the tables call it."""
        size = f"{self.size >> 20} MiB" if self.size >= 2**20 else f"{self.size >> 10} KiB"
        if not self.connections:
            return f"{size}, a connection for each"
        return f"{size}, {self.connections} connections kept"


_WORKS = (
    Work(128 << 20, 4, 0),
    Work(1 << 20, 256, 1),
    *(Work(64 << 10, 1024, connections) for connections in (1, 16, 256)),
    *(Work(4 << 10, 2048, connections) for connections in (1, 16, 256)),
)
_SMOKE = (Work(1 << 20, 2, 0), Work(4 << 10, 8, 2))


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each size of file and number of connections."""
    for work in _SMOKE if plan.smoke else _WORKS if peers.IN_GUEST else _WORKS[:1]:
        contenders = [_contender(plan, name, work) for name in SITES]
        figure, unit = "each", "µs per file"
        if work.connections == 0:
            contenders.append(Contender(_CIPHER, partial(_cipher, work)))
            figure, unit = "cost" if peers.IN_GUEST else "server CPU", "s per GB"
        yield Experiment(
            title=work.title,
            contenders=tuple(contenders),
            figure=figure,
            unit=unit,
            reference="nginx, kernel" if peers.IN_GUEST else "nginx",
            note=_NOTE if peers.IN_GUEST else _NATIVE_NOTE,
        )


def write_file(folder: Path, size: int) -> str:
    """Write a file of some size, once; return its name."""
    path = folder / f"file-{size}"
    with _one_at_a_time:
        if not path.exists():
            path.write_bytes(os.urandom(1 << 12) * (size >> 12))
    return path.name


def fetch(port: int, name: str, work: Work, *, tls: bool) -> dict[str, float]:
    """Do the work, in this process."""
    if work.connections == 0:
        return fetching.whole(port, name, work.size, work.times, tls=tls)
    times = fetching.Times(work.times, work.connections)
    return fetching.repeatedly(port, name, work.size, times, tls=tls)


def _contender(plan: Plan, name: str, work: Work) -> Contender:
    site = SITES[name]

    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        if work.connections and not site.keeps:
            raise Missing("keeps no connection")
        path = write_file(plan.folder, work.size)
        with site.start(plan.setting(make(plan.folder, "ECDSA"))) as running:

            def turn() -> dict[str, float]:
                before = running.cpu()
                with carried_by(kernel=site.ktls):
                    (found,) = client.in_children(
                        plan.load_core, _load, running.port, path, work, site.tls
                    )
                spent, gigabytes = running.cpu() - before, found["bytes"] / 1e9
                return {
                    "cost": found["seconds"] / gigabytes,
                    "each": 1e6 * found["seconds"] / found["answers"],
                    "MB/s": 1e3 * gigabytes / found["seconds"],
                    "server CPU": spent / gigabytes,
                    "records per MB": found["records"] / gigabytes / 1e3,
                }

            yield turn

    return Contender(name, start)


@contextlib.contextmanager
def _cipher(work: Work) -> Iterator[Turn]:
    """Encrypt as many bytes as are fetched, in pieces as large as records, and send nothing."""
    cipher, plaintext = AESGCM(bytes(16)), bytes(_RECORD)
    nonce, sealed = bytes(12), bytearray(_RECORD + 16)

    def turn() -> dict[str, float]:
        count = work.size * work.times // _RECORD
        begun = time.perf_counter()
        for _ in range(count):
            cipher.encrypt_into(nonce, plaintext, None, sealed)
        seconds = time.perf_counter() - begun
        cost = 1e9 * seconds / (count * _RECORD)
        return {"cost": cost, "server CPU": cost}

    yield turn


def _load(port: int, path: str, work: Work, tls: bool) -> dict[str, float]:
    return fetch(port, path, work, tls=tls)
