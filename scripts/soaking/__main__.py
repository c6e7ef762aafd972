"""The command line of `scripts/soak`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from scripts.soaking.clients import Crowd
from scripts.soaking.servers import Held, Server
from tlsify.connection.setup.eligibility import capabilities

if TYPE_CHECKING:
    from collections.abc import Mapping

_BIG = 400_000
# Seconds between two reloads, deaths of workers and successors, which take turns.
_EVENT = 5.0
# What memory may have grown by, in MB for each process: allocators keep what they had at most.
_GROWTH = 12.0
_STATISTICS = Path("/proc/net/tls_stat")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Load serve, forward and listen with good and bad clients, reload and kill "
        "what may be killed, and compare what all of them hold before and after.",
    )
    parser.add_argument("--minutes", type=float, default=30, help="default %(default)g")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--relay", action="store_true", help="even where the kernel can")
    return parser.parse_args()


def main() -> int:
    """Run scripts/soak; the exit status is 1 if anything grew, or an honest client failed."""
    options = _options()
    if options.relay:
        os.environ["TLSIFY_KTLS"] = "off"
    refusal = capabilities().refusal
    carrier = "relay" if options.relay or refusal else "kernel"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = _start(Path(folder), stack)
        soak(Path(folder), servers, 20, options.seed)  # until all that is imported late is there
        before = _rest(servers)
        statistics = _statistics()
        began = time.monotonic()
        crowd = soak(Path(folder), servers, 60 * options.minutes, options.seed + 1)
        seconds = time.monotonic() - began
        after = _rest(servers, before)
    tally = crowd.tally
    print(f"{carrier}, {seconds:.0f} s, seed {options.seed}")
    print(f"served {tally.served}, lost to deaths {tally.lost}, failed {len(tally.failures)}, "
          f"rude visits {tally.rude}")  # fmt: skip
    grown = False
    for name, first in before.items():
        last = after[name]
        grows = last.exceeds(first) or last.memory > first.memory + _GROWTH * first.processes
        grown |= grows
        print(f"{name:19} {_show(first)} -> {_show(last)}{'  GROWS' if grows else ''}")
    for name, number in _statistics().items():
        if name.endswith(("Error", "Curr", "CurrTxSw", "CurrRxSw")):
            print(f"{name:24} {statistics.get(name, 0)} -> {number}")
    print("ports:", *(f"{it.port} {it.name}" for it in servers))
    for failure in tally.failures[:20]:
        print(f"failed: {failure}")
    return int(grown or bool(tally.failures))


def _start(folder: Path, stack: contextlib.ExitStack) -> list[Server]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    for index, pem in enumerate(leaf.cert_chain_pems):
        pem.write_to_path(folder / "cert.pem", append=bool(index))
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "key.pem").chmod(0o600)
    (folder / "www").mkdir()
    (folder / "www" / "index.html").write_bytes(b"index")
    (folder / "www" / "big").write_bytes(os.urandom(_BIG))
    pair = ("--cert", folder / "cert.pem", "--key", folder / "key.pem")
    here = "127.0.0.1:0"
    plain = _plain(folder / "www", stack)
    two = ("--workers", "2", *pair)
    files = ("--listen", here, *two, folder / "www")
    servers = (
        Server(folder, 3, "serve", *files),
        Server(folder, 6, "serve", "--isolate-key", *files),  # with a custodian and two holders
        Server(folder, 3, "forward", *two, here, f"127.0.0.1:{plain}"),
        Server(folder, 1, "listen", *pair, "--limit", "60", "127.0.0.1", "0", "--", "cat"),
    )
    return [stack.enter_context(each) for each in servers]


def _plain(folder: Path, stack: contextlib.ExitStack) -> int:
    """Start a plain web server, as `forward` has them behind it; return its port."""
    words: list[str | Path] = [
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "-b",
        "127.0.0.1",
        "-d",
        folder,
        "0",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    stack.callback(process.kill)
    assert process.stdout is not None
    return int(process.stdout.readline().split(" port ")[1].split()[0])


def soak(folder: Path, servers: list[Server], seconds: float, seed: int) -> Crowd:
    """Load the servers for a while."""
    crowd = Crowd(folder / "ca.pem", seed)
    *web, listen = servers
    for server in web:
        crowd.add(partial(crowd.fetch, server.port, "/", 5), honest=True, pause=0.1)
        crowd.add(partial(crowd.fetch, server.port, "/big", _BIG), honest=True, pause=0.2)
        crowd.add(partial(crowd.be_rude, server.port, "/big"), honest=False, pause=0.2)
    crowd.add(partial(crowd.echo, listen.port), honest=True, pause=0.2)
    crowd.add(partial(crowd.be_rude, listen.port, "/"), honest=False, pause=0.2)
    end, turn = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(_EVENT, left))
        _happen(crowd, servers, turn)
        turn += 1
    crowd.end()
    return crowd


def _happen(crowd: Crowd, servers: list[Server], turn: int) -> None:
    *web, _ = servers
    match turn % 8:
        case 0 | 4:
            for server in servers:
                server.process.send_signal(signal.SIGHUP)
        case 1:
            # Seldom: supervisors wait longer and longer with a replacement for one that dies young.
            number, server = turn // 8, web[turn // 8 % len(web)]
            children = server.children()
            crowd.last_kill = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(children[number // len(web) % len(children)], signal.SIGKILL)
        case 2 | 6:
            web[turn // 4 % 2].process.send_signal(signal.SIGUSR2)


def _rest(servers: list[Server], before: Mapping[str, Held] | None = None) -> dict[str, Held]:
    goals = before or {}
    return {it.name: it.rest(goals.get(it.name)) for it in servers}


def _statistics() -> dict[str, int]:
    if not _STATISTICS.exists():
        return {}
    lines = (line.split() for line in _STATISTICS.read_text().splitlines())
    return {name: int(number) for name, number in lines}


def _show(held: Held) -> str:
    return (
        f"{held.processes} processes, {held.descriptors} descriptors, {held.threads} threads, "
        f"{held.memory:.1f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
