"""An ordeal for a server under load: reload, a worker's death, a successor, the end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import trustme

from tests.cli.harness import Served
from tests.cli.swarm import Swarm, Tally, kill_worker
from tests.doubles import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.swarm import Load

_BIG = 2**21
_PATIENCE = 60.0


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        tally: of all clients.
        lost: failures on connections of the worker that was killed.
        failed: all others.
        seconds: that it took.
        status: the server's exit status.
        err: what it said on stderr.
        metrics: the last ones that it gave before its end.
        descriptors: open in the supervisor at first, and before the end.
        steps: when what was done, in seconds.
    """

    tally: Tally
    lost: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    status: int = 0
    err: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    descriptors: tuple[int, int] = (0, 0)
    steps: dict[str, float] = field(default_factory=dict)


def issue(authority: trustme.CA, folder: Path) -> None:
    """Put a certificate and its key where the server finds them, in one step each."""
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "new.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    (folder / "new.key").touch(0o600)
    (folder / "new.key").write_bytes(leaf.private_key_pem.bytes())
    for kind in ("key", "pem"):
        (folder / f"new.{kind}").rename(folder / f"server.{kind}")


def scrape(port: int) -> dict[str, float]:
    """Ask for metrics."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    return {name: float(number) for name, number in found}


def undergo(folder: Path, *words: str, metrics_port: int, load: Load) -> Outcome:
    """Put a server through all of it, while clients ask for files.

    Args:
        folder: empty, for certificates and files.
        words: options of serve besides.
        metrics_port: free.
        load: what the clients ask for.
    """
    root = folder / "www"
    root.mkdir()
    (root / "index.html").write_bytes(b"index")
    (root / "big").write_bytes(os.urandom(_BIG))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issue(authority, folder)
    named: list[str | Path] = ["--cert", folder / "server.pem", "--key", folder / "server.key"]
    metrics = ["--metrics", f"127.0.0.1:{metrics_port}"]
    command = ["serve", "--listen", "127.0.0.1:0", *named, *metrics, *words, root]
    began = time.monotonic()
    with (
        Served(*command) as served,
        Swarm(served.port, folder / "ca.pem", root, load) as swarm,
    ):
        outcome = Outcome(Tally())
        before = served.descriptors()

        def step(name: str, share: float) -> None:
            swarm.wait_for(int(load.connections * share))
            outcome.steps[f"{name} at {swarm.done} connections"] = time.monotonic() - began

        step("certificate swapped, SIGHUP", 0.15)
        issue(authority, folder)
        old = served.workers()
        served.process.send_signal(signal.SIGHUP)
        until(lambda: scrape(metrics_port)['tlsify_reloads_total{outcome="ok"}'] == 1, _PATIENCE)
        step("worker killed", 0.4)
        victim = max(served.workers() - old)
        lost = kill_worker(victim)
        until(lambda: scrape(metrics_port)["tlsify_worker_restarts_total"] == 1, _PATIENCE)
        step("SIGUSR2", 0.6)
        old = served.workers()
        served.process.send_signal(signal.SIGUSR2)
        number = len(served.lines)
        served.read_lines(number + 1)
        step("SIGTERM", 0.9)
        after = served.descriptors()
        outcome.metrics = scrape(metrics_port)
        swarm.end()
        served.process.terminate()
        ended = served.finish()
        outcome.tally = swarm.tally()
    shutil.rmtree(root)
    outcome.seconds = time.monotonic() - began
    outcome.failed = [each for each in outcome.tally.failures if each[0] not in lost]
    outcome.lost = len(outcome.tally.failures) - len(outcome.failed)
    outcome.status, outcome.err = ended.status, ended.err
    outcome.descriptors = before, after
    return outcome
