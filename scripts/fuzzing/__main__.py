"""The command line of `scripts/fuzz`: each target in a forked process, one after the other."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import atheris

# What is imported here is instrumented, so that nothing of tlsify may have been imported before.
with atheris.instrument_imports(include=["tlsify"], enable_loader_override=False):
    from tests.fuzz import corpus
    from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / ".scratch" / "fuzz"
# Longest input, seconds that one may take, and MB that all may take together.
_LONGEST, _SLOWEST, _MEMORY = 4096, 10, 2048
_RUNS = re.compile(r"^Done (\d+) runs in \d+ second", re.MULTILINE)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Feed parsers and state machines with what coverage suggests, from the kept "
        "corpus on. What breaks one is left in .scratch/fuzz.",
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="for all targets together, default %(default)g"
    )
    parser.add_argument(
        "--runs", type=int, default=-1, metavar="N", help="at most N inputs for each target"
    )
    parser.add_argument(
        "--keep", action="store_true", help="add what reaches new code to the corpus"
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    options = parser.parse_args()
    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no target {unknown.pop()}; there are: {', '.join(TARGETS)}")
    options.targets = options.targets or list(TARGETS)
    return options


def main() -> int:
    """Run scripts/fuzz; the exit status is 1 if anything was found."""
    options = _options()
    logging.disable()
    share = max(1, round(options.seconds / len(options.targets)))
    inputs, broken, began = 0, 0, time.monotonic()
    FOUND.mkdir(parents=True, exist_ok=True)
    for name in options.targets:
        with tempfile.TemporaryDirectory() as folder:
            known, fresh = (Path(folder) / part for part in ("known", "fresh"))
            corpus.unpack(name, known)
            fresh.mkdir()
            flags = [f"-max_total_time={share}", f"-runs={options.runs}", str(fresh), str(known)]
            status, said = _fuzz(name, flags)
            if options.keep and not status:
                corpus.pack(name, known, fresh)
        runs = int(found[1]) if (found := _RUNS.search(said)) else 0
        inputs += runs
        broken += bool(status)
        print(f"{name:32} {runs:10d} inputs{'  BROKEN' if status else ''}", flush=True)
        if status:
            print(said, flush=True)
    print(f"{inputs} inputs in {time.monotonic() - began:.0f} s, {broken} targets broken")
    return int(bool(broken))


def _feed(name: str, data: bytes) -> None:
    """Feed a target; leave what breaks it, as libFuzzer does not always."""
    try:
        TARGETS[name].feed(data)
    except BaseException:
        (FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
        raise


def _fuzz(name: str, flags: list[str]) -> tuple[int, str]:
    """Fuzz one target in a child; return its exit status, and what libFuzzer says."""
    with tempfile.TemporaryFile() as log:
        pid = os.fork()
        if pid == 0:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            bounds = [f"-max_len={_LONGEST}", f"-timeout={_SLOWEST}", f"-rss_limit_mb={_MEMORY}"]
            words = [sys.argv[0], *bounds, f"-artifact_prefix={FOUND}/{name}-", *flags]
            atheris.Setup(words, partial(_feed, name))
            atheris.Fuzz()
            os._exit(1)  # Fuzz has ended the process by now
        _, status = os.waitpid(pid, 0)
        log.seek(0)
        return os.waitstatus_to_exitcode(status), log.read().decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
