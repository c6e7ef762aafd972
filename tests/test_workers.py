"""Tests of workers, each in a process of its own: they fork, and wait for all their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import pytest

from tlsify import workers

if TYPE_CHECKING:
    from collections.abc import Iterator

# Says what happens, a line each; a worker "works" until SIGTERM and then drains.
PROGRAM = """
import os, signal, sys
from tlsify import workers

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def worker(tell_ready):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    say("started", os.getpid())
    if {fails}:
        raise RuntimeError("planted")
    tell_ready()
    signal.sigwait([signal.SIGTERM])
    say("drained", os.getpid())

def before_fork():
    os.write(2, b"forking\\n")

workers.run({count}, worker, lambda: say("ready"), lambda: say("stopping"), before_fork)
say("over")
"""


class Program:
    """The program above, line by line."""

    def __init__(self, count: int, *, fails: bool = False) -> None:
        """Start it."""
        text = PROGRAM.format(count=count, fails=fails)
        self.process = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, should it still run."""
        self.process.kill()
        self.process.communicate()

    def lines(self) -> Iterator[list[str]]:
        """Give each line's words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.split()

    def read_until(self, word: str) -> list[list[str]]:
        """Read up to the first line that begins with a word."""
        read = []
        for words in self.lines():
            read.append(words)
            if words[0] == word:
                return read
        raise AssertionError(f"no line {word}: {read}, {self.errors()}")

    def errors(self) -> str:
        """Give what it has said on stderr; it must have ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def end(self) -> list[list[str]]:
        """Read the rest and assert that it ends well."""
        rest = list(self.lines())
        assert self.process.wait(10) == 0
        return rest


def test_readiness() -> None:
    """It is told once, after every worker."""
    with Program(3) as program:
        seen = program.read_until("ready")
        assert [words[0] for words in seen] == ["started"] * 3 + ["ready"]
        assert len({words[1] for words in seen[:3]}) == 3
        program.process.send_signal(signal.SIGTERM)
        assert ["ready"] not in program.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_draining(number: signal.Signals) -> None:
    """Either signal has the listener closed, each worker drain, and the parent wait for them."""
    with Program(2) as program:
        pids = {words[1] for words in program.read_until("ready")[:2]}
        program.process.send_signal(number)
        rest = program.end()
    assert rest[0] == ["stopping"]
    assert {words[1] for words in rest if words[0] == "drained"} == pids
    assert rest[-1] == ["over"]


def test_worker_that_is_killed() -> None:
    """It is replaced, and the others work on."""
    with Program(2) as program:
        first, second = (words[1] for words in program.read_until("ready")[:2])
        os.kill(int(first), signal.SIGKILL)
        (replaced,) = program.read_until("started")
        assert replaced[1] not in {first, second}
        program.process.send_signal(signal.SIGTERM)
        rest = program.end()
        assert {words[1] for words in rest if words[0] == "drained"} == {second, replaced[1]}
        errors = program.errors()
        assert f"worker {first} ended with status -9" in errors
        assert errors.count("forking") == 3, "what children must not inherit is dropped each time"


def test_worker_that_fails_at_once() -> None:
    """Readiness is never told, the failure is logged, and stopping still works."""
    with Program(2, fails=True) as program:
        program.read_until("started")
        program.read_until("started")
        program.process.send_signal(signal.SIGTERM)
        assert not {"ready", "drained"} & {words[0] for words in program.end()}
        assert "planted" in program.errors()


def test_single_worker() -> None:
    """One is run right here, without a fork."""
    happened: list[str | int] = []

    def worker(tell_ready: workers.Ready) -> None:
        happened.append(os.getpid())
        tell_ready()

    workers.run(1, worker, lambda: happened.append("ready"))
    assert happened == [os.getpid(), "ready"]
