"""The command line of `scripts/test`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from scripts.testing import run, servers, stages
from scripts.testing.stages import KERNELS, LATEST, QUICK, ROOT


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description="Run the tests: on this host, and in guests on three kernels, side by side.",
    )
    parser.add_argument("--full", action="store_true", help="every kTLS test on every kernel")
    parser.add_argument(
        "--kernel",
        action="append",
        default=[],
        choices=[*KERNELS, QUICK],
        metavar="NAME",
        help=f"with PATH: the guests for what needs kernel TLS (default: {LATEST})",
    )
    parser.add_argument(
        "--slowest", type=int, default=0, metavar="N", help="list the N slowest tests of each stage"
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files, folders or tests to run instead of all"
    )
    options = parser.parse_args()
    if options.kernel and not options.paths:
        parser.error("--kernel wants a PATH")
    return options


def main() -> int:
    """Run scripts/test."""
    options = _options()
    if options.full:
        servers.provide()
    if options.paths:
        kernels = options.kernel or [LATEST]
        if status := _make_ready(*kernels):
            return status
        return run.main(stages.named(options.paths, kernels, full=options.full), options.slowest)
    if status := _make_ready(*KERNELS):
        return status
    quick = not _make_ready(QUICK)
    if not quick:
        print(f"scripts/test: without it {LATEST} runs all, and takes twice as long", flush=True)
    with ThreadPoolExecutor() as executor:
        # Beside what is found here: guests share byte code, and two would make it at once.
        executor.submit(_make_byte_code, QUICK if quick else LATEST)
        found = stages.everything(full=options.full, quick=quick)
    return run.main(found, options.slowest)


def _make_ready(*kernels: str) -> int:
    """Fetch and build what some guests are made of; return the lane's exit status."""
    return subprocess.run([ROOT / "vm/run", "--ready", *kernels], check=False).returncode


def _make_byte_code(kernel: str) -> None:
    """Have the lane make the guests' byte code; if it cannot, its stages will say so."""
    words = [str(ROOT / "vm/run"), "--kernel", kernel, "--", "true"]
    subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
