"""The stages of a test run: what each runs, and where."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vm"))

from lane import kernel

from scripts.testing import servers
from tests import chosen

ROOT = Path(__file__).resolve().parents[2]
PYTEST = str(ROOT / ".venv/bin/pytest")
LATEST, QUICK = "latest", "uml"
KERNELS = tuple(kernel.declared())
OLDEST = KERNELS[0]
# A hang fails its own test; this is for a guest that is stuck as a whole.
GUEST_SECONDS = 5400
NO_TESTS = 5  # pytest's exit status
_EVERY_ENDING = "--every-ending"  # an option of tests/conftest.py
# The quick lane's kernel has the source of `latest`, where all of it is tried, and the oldest one
# shows what is there since then. What neither shows: what is only in between, the drivers that do
# the crypto, a second processor, and what Debian has chosen.
OF_THE_BUILD = (
    *("tests/ktls/", "tests/interop/", "tests/odd_peers/", "tests/system/"),
    *("tests/test_contract.py", "tests/test_fake_kernel.py", "tests/test_rekey.py"),
)
# What a guest with a kernel of Debian's runs: all that there is for it.
_ALL = "ktls or own_kernel"
# What the quick lane runs of it, and the host of what is left, if not all.
_QUICK = "ktls and not full_run"
_HOST = "not ktls and not occasional"


@dataclass(frozen=True)
class Stage:
    """A command that tells of its tests, each as it ends, as tests/progress.py does.

    Attributes:
        name: in the summary.
        words: the command.
        environment: variables besides this process's own.
        may_be_empty: whether it is right that there are no tests for it.
    """

    name: str
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    may_be_empty: bool = False


def inherited() -> dict[str, str]:
    """Return what all run in: byte code is kept, where it spares seconds a test."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def everything(*, full: bool, quick: bool) -> list[Stage]:
    """Return the stages of a whole run, in the order in which they begin.

    The host's comes last, though it is long: it is the only one that can keep all processors busy
    by itself, when the last of the guests has ended.

    Args:
        full: whether every kernel gets every test that needs kernel TLS, and a browser is tried.
        quick: whether the quick lane is there, to take most of them off the emulated kernels.
    """
    sample = _ALL if full else "ktls and each_kernel and not heavy or own_kernel"
    # One after the other: the first leaves what it has compiled to the second, and to the host's.
    every, sampled = _chosen(_ALL), _chosen(sample)
    options = [_EVERY_ENDING] if full else []
    stages = _quick("ktls" if full else _QUICK, every, options) if quick else []
    for name in KERNELS if quick else reversed(KERNELS):
        if not full and quick and name != OLDEST:
            build = [function for function in sampled if function.startswith(OF_THE_BUILD)]
            stages.append(_guest(name, sample, build, options))
        elif name != LATEST or full:
            stages.append(_guest(name, sample, sampled, options))
        else:
            stages.append(_guest(name, _ALL, every, options))
    # Half of the time tests wait: for a program's start, another thread, the end of a limit.
    workers = 2 * len(os.sched_getaffinity(0))
    side_by_side = ["--numprocesses", str(workers), "--dist", "worksteal"]
    return [*stages, host("not ktls" if full else _HOST, [*side_by_side, *options], browser=full)]


def named(arguments: list[str], kernels: list[str], *, full: bool) -> list[Stage]:
    """Return the stages that run what is named: here, and in guests what is marked so."""
    there = [*arguments, _EVERY_ENDING] if full else arguments
    stages = [host("not ktls", arguments), *(guest(name, _ALL, there) for name in kernels)]
    return [replace(stage, may_be_empty=True) for stage in stages]


def host(marks: str, arguments: list[str], *, browser: bool = False) -> Stage:
    """Run tests on this machine; those with a browser only if it is to be fetched."""
    environment = {"TLSIFY_BROWSER": "1"} if browser else {}
    return Stage("host", [PYTEST, "--quiet", "-m", marks, *arguments], environment)


def guest(name: str, marks: str, arguments: list[str]) -> Stage:
    """Run tests in a guest."""
    lane = [str(ROOT / "vm/run"), "--kernel", name, "--timeout", str(GUEST_SECONDS)]
    return Stage(
        name, [*lane, *servers.mounts(), "--", "pytest", "--quiet", "-m", marks, *arguments]
    )


def _quick(marks: str, functions: list[str], options: list[str]) -> list[Stage]:
    """Run the quick lane's tests in two guests, each with every other file.

    A guest there has one processor, and leaves it to nobody while a test waits: one alone would
    be the last to end.
    """
    files = sorted({function.partition("::")[0] for function in functions})
    halves = (
        [function for function in functions if files.index(function.partition("::")[0]) % 2 == rest]
        for rest in (0, 1)
    )
    return [
        replace(_guest(QUICK, marks, half, options), name=f"{QUICK}-{number}")
        for number, half in enumerate(halves, 1)
    ]


def _guest(name: str, marks: str, functions: list[str], options: list[str]) -> Stage:
    """Run chosen test functions in a guest, which reads and makes no others."""
    files = dict.fromkeys(function.partition("::")[0] for function in functions)
    stage = guest(name, marks, [*files, *options])
    return replace(stage, environment={chosen.VARIABLE: "\n".join(functions)})


@functools.cache
def _chosen(marks: str) -> list[str]:
    """List the functions that make tests with these marks."""
    done = subprocess.run(
        [PYTEST, "--collect-only", "-q", "-m", marks],
        cwd=ROOT,
        env=inherited() | {"TLSIFY_EXPECT_KTLS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"scripts/test: error: tests cannot be collected:\n{done.stdout}{done.stderr}")
    return chosen.functions(done.stdout)
