"""The command line of scripts/bench/run: which suites, natively or in which guest."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench import interleave, machine, pages, peers, report, servers
from scripts.bench.peers import LaneError
from scripts.bench.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT = peers.ROOT / "docs/benchmarks"
# For 10,000 connections that are relayed to somebody else.
_DESCRIPTORS = 2**16
# The exit status of a smoke run in which somebody failed.
FAILED = 1


@dataclass(frozen=True)
class Suite:
    """Where a suite's module runs: natively ("") or in a guest; and how often by default.

    Attributes:
        warm_up: whether a first round does not count.
    """

    where: tuple[str, ...]
    rounds: int = 7
    warm_up: bool = True


SUITES = {
    "startup": Suite(("",), 15),
    "engine": Suite(("",)),
    "handshakes": Suite(("",), 3),
    "agent": Suite(("", "uml")),
    "handoff": Suite(("", "uml")),
    "relay": Suite(("",)),
    "tunnel": Suite(("", "uml"), 5),
    "first_byte": Suite(("", "uml")),
    "scale": Suite(("", "uml"), 1, warm_up=False),
    "bulk": Suite(("", "uml"), 3),
    "pieces": Suite(("", "uml"), 5),
    "http2": Suite(("", "uml"), 3),
    "counts": Suite(("uml", "latest"), 1),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/run",
        description="Measure tlsify and its peers, side by side; see docs/benchmarks/notes.md.",
    )
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; default: all"
    )
    parser.add_argument("--smoke", action="store_true", help="only see that everything runs")
    parser.add_argument("--native", action="store_true", help="leave out what runs in guests")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: each suite's own")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: docs/benchmarks, and nowhere for --smoke"
    )
    parser.add_argument(
        "--only",
        type=re.compile,
        metavar="REGEX",
        help='what "EXPERIMENT: CONTENDER" has to have in it; such records go to --out only',
    )
    parser.add_argument(
        "--setup", action="store_true", help="fetch and build what it takes, and nothing else"
    )
    parser.add_argument("--report", action="store_true", help="write tables and plots anew")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Run suites; give the exit status."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.suites) - SUITES.keys():
        parser.error(f"no suite named {', '.join(sorted(unknown))}")
    if options.only is not None and options.out in {None, OUT}:
        parser.error("--only needs --out: a part is not what is published")
    try:
        if options.setup or not (options.here or options.smoke or options.report):
            _set_up(options)
    except LaneError as exc:
        print(f"scripts/bench/run: error: {exc}\nhint: {exc.hint}", file=sys.stderr)
        return FAILED
    if options.setup:
        return 0
    with tempfile.TemporaryDirectory() as nowhere:
        if options.out is None:
            options.out = Path(nowhere) if options.smoke else OUT
        return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    """Run the suites and write what came of them; return the exit status."""
    options.out.mkdir(parents=True, exist_ok=True)
    failed = False
    origin = machine.origin()  # before there are new records, which make a clone a changed one
    for name, where in _places(options):
        if where == peers.IN_GUEST or options.here:
            record = run_suite(name, options)
        else:
            record = _in_guest(name, where, options)
        record["origin"] = origin
        report.keep(record, options.out)
        failed |= any(one["failed"] for one in record["experiments"])
    if not options.here:
        report.write(options.out)
    if options.out == OUT:
        pages.fill(OUT)
    # In a guest it is the record that tells.
    return FAILED if failed and options.smoke and not options.here else 0


def _set_up(options: argparse.Namespace) -> None:
    """Fetch the peers and build the guests, before anything has been measured in vain."""
    peers.set_up()
    for guest in sorted({where for _, where in _places(options) if where}):
        peers.set_up_guest(guest)
    peers.compile_project()


def _places(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if options.report:
        return
    for name in options.suites or SUITES:
        if options.here:
            yield name, peers.IN_GUEST
            continue
        for where in SUITES[name].where:
            if not (where and options.native):
                yield name, where


def run_suite(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a suite on this machine or guest; return its record."""
    core, load_core = machine.cores()
    _allow_descriptors()
    suite = importlib.import_module(f"scripts.bench.suites.{name}")
    rounds = options.rounds or (1 if options.smoke else SUITES[name].rounds)
    with tempfile.TemporaryDirectory() as folder, servers.backend(load_core) as backend:
        plan = Plan(
            folder=Path(folder),
            smoke=options.smoke,
            rounds=rounds,
            core=core,
            load_core=load_core,
            cores=len(os.sched_getaffinity(0)),
            backend=backend,
        )
        warm_up = SUITES[name].warm_up and not options.smoke
        wanted = filter(None, (one.only(options.only) for one in suite.experiments(plan)))
        outcomes = [interleave.run(one, rounds, warm_up=warm_up) for one in wanted]
    return {
        "suite": name,
        "about": (suite.__doc__ or "").partition("\n")[0],
        "rounds": rounds,
        "machine": {} if options.smoke else machine.facts(),
        "experiments": [outcome.as_json() for outcome in outcomes],
    }


def _allow_descriptors() -> None:
    """Raise the limit on descriptors, for children too, as far as needed or allowed."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (max(most, _DESCRIPTORS), most):
        with contextlib.suppress(ValueError, OSError):  # only root may have more
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return


def _in_guest(name: str, where: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a suite in a guest, which leaves its record in the scratch folder."""
    with tempfile.TemporaryDirectory(dir=Path.home() / ".cache") as scratch:
        words = [str(peers.ROOT / "vm/run"), "--kernel", where, "--scratch", scratch]
        words += ["--timeout", "7200"]
        if (place := peers.folder()) is not None:
            words += ["--mount", str(place), "--env", f"{peers.TREE_VARIABLE}={place}"]
        words += ["--", "python", str(peers.ROOT / "scripts/bench/run"), name, "--here"]
        words += ["--out", str(peers.ROOT / ".scratch")]
        words += ["--smoke"] if options.smoke else []
        words += ["--rounds", str(options.rounds)] if options.rounds else []
        words += ["--only", options.only.pattern] if options.only is not None else []
        subprocess.run(words, check=True)
        (path,) = Path(scratch).glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found
