"""Tests of workers, each in a process of its own: they fork, and wait for all their children."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.cli.harness import insist

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Says what happens, a line each; a worker "works" until SIGTERM and then drains. What it does is
# told by words in a file, which SIGHUP reads anew.
PROGRAM = """
import logging, os, pathlib, signal, sys, time
from tlsify.serving import changes, generation, supervisor
from tlsify.metrics.counters import Gauge, beat, counters, gauge, share
from tlsify.serving.duty import SupervisorHooks
from tlsify.errors import ConfigError

logging.basicConfig(format="%(message)s")
changes._INTERVAL = 0.02
supervisor._GRACE = 0.1
supervisor._PAUSE = 0.05
generation._PAUSE = 0.01
share()
orders = pathlib.Path(sys.argv[1])

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def make():
    words = orders.read_text().split()
    supervisor._START_TIME = 0 if "late" in words else 60
    if "bad" in words:
        raise ConfigError("the file is bad")

    def work(post):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        say("started", os.getpid(), post.index, *words)
        if "fails" in words:
            raise RuntimeError("planted")
        if "hangs" in words:
            time.sleep(1000)
        if "beats" in words:
            beat()
        post.ready()
        while signal.sigtimedwait([signal.SIGTERM], 0.02 if "beats" in words else 1000) is None:
            beat()
        if "lingers" in words:
            time.sleep(1000)
        say("drained", os.getpid(), *words)

    return work

def stop():
    say("stopping", gauge(Gauge.STOPPING))

def rehearse():
    words = orders.read_text().split()
    supervisor._START_TIME = 0 if "late" in words else 60
    command = "exec sleep 100" if "hangs" in words else "exit 3" if "refused" in words else "exit 0"
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", command], os.environ)
    say("rehearses", pid)
    return pid

def ended():
    for child in generation.ended():
        if "overtaken" in orders.read_text():
            os.kill(os.getpid(), signal.SIGTERM)
        yield child

supervisor.ended = ended

def succeed(former):
    say("succeeded", *(f"{{pid}}:{{slot}}" for pid, slot in former.items()))
    raise OSError("planted")

duty = SupervisorHooks(
    on_ready=lambda: say("ready"),
    on_stop=stop,
    before_fork=lambda: os.write(2, b"forking\\n"),
    renew=make,
    rehearse=rehearse,
    succeed=succeed,
    notify=lambda state: say("notify", repr(state)),
    **eval({more!r}),
)
status = 0
try:
    supervisor.run({count}, make(), duty)
except Exception as exc:
    say("raised", type(exc).__name__, exc)
    status = 1
found = counters()
say("over", *(found[name] for name in ("worker_restarted", "reloaded", "reload_refused")))
say("hung", found["worker_hung"])
sys.exit(status)
"""


class Program:
    """The program above, line by line."""

    def __init__(self, folder: Path, count: int, orders: str = "", more: str = "{}") -> None:
        """Start it."""
        self.orders = folder / "orders"
        self.orders.write_text(orders)
        text = PROGRAM.format(count=count, more=more)
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, self.orders],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, should it still run."""
        self.process.kill()
        self.process.communicate()

    def tell(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def lines(self) -> Iterator[list[str]]:
        """Return each line's words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.split()

    def read_until(self, *words: str) -> list[list[str]]:
        """Read up to the first line that begins with some words."""
        read = []
        for found in self.lines():
            read.append(found)
            if found[: len(words)] == list(words):
                return read
        raise AssertionError(f"no line {words}: {read}, {self.errors()}")

    def started(self, count: int) -> set[str]:
        """Read until so many have started, and all are ready; gives their pids."""
        return {self.read_until("started")[-1][1] for _ in range(count)}

    def errors(self) -> str:
        """Return what it has said on stderr; it must have ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def end(self, number: int = signal.SIGTERM, status: int = 0) -> list[list[str]]:
        """Send a signal, read the rest and assert that it ends well."""
        self.tell(number)
        rest = list(self.lines())
        assert self.process.wait(10) == status
        return rest


def _pids(lines: list[list[str]], word: str) -> set[str]:
    return {words[1] for words in lines if words[0] == word}


# -- beginning and end


def test_readiness(tmp_path: Path) -> None:
    """It is told once, after every worker."""
    with Program(tmp_path, 3) as program:
        seen = program.read_until("ready")
        assert [words[0] for words in seen] == ["started"] * 3 + ["ready"]
        assert len(_pids(seen, "started")) == 3
        assert sorted(words[2] for words in seen[:3]) == ["0", "1", "2"]
        assert program.read_until("notify")[-1] == ["notify", "'READY=1\\nSTATUS=3", "workers'"]
        assert ["ready"] not in program.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("count", [1, 2])
def test_draining(tmp_path: Path, number: signal.Signals, count: int) -> None:
    """Either signal has the listener closed, each worker drain, and the parent wait for them."""
    with Program(tmp_path, count) as program:
        pids = _pids(program.read_until("ready"), "started")
        rest = program.end(number)
    assert ["stopping", "1"] in rest
    assert ["notify", "'STOPPING=1\\nSTATUS=draining'"] in rest
    assert _pids(rest, "drained") == pids
    assert rest[-2] == ["over", "0", "0", "0"]


def test_drain_that_takes_too_long(tmp_path: Path) -> None:
    """Its worker is killed at the deadline."""
    with Program(tmp_path, 2, "lingers", "{'drain': 0.05}") as program:
        program.read_until("ready")
        assert not _pids(program.end(), "drained")
        assert program.errors().count("did not end in time and is killed") == 2


def test_second_signal(tmp_path: Path) -> None:
    """It ends everything at once."""
    with Program(tmp_path, 2, "lingers") as program:
        program.read_until("ready")
        program.tell(signal.SIGTERM)
        program.read_until("stopping")
        begun = time.monotonic()
        insist(program.process, signal.SIGINT)
        assert program.process.returncode == 0
        assert time.monotonic() - begun < 30


def test_workers_that_do_not_start(tmp_path: Path) -> None:
    """That is an error, and nobody is left behind."""
    with Program(tmp_path, 2, "fails") as program:
        rest = list(program.lines())
        assert program.process.wait(10) == 1
        (raised,) = (words for words in rest if words[0] == "raised")
        assert raised[1] == "WorkerError"
        assert "planted" in program.errors()
        for pid in _pids(rest, "started"):
            with pytest.raises(ProcessLookupError):
                os.kill(int(pid), 0)


def test_supervisor_that_is_told_to_stop_meanwhile(tmp_path: Path) -> None:
    """It does not wait for those that never get ready."""
    with Program(tmp_path, 2, "hangs", "{'drain': 0.05}") as program:
        program.started(2)
        assert not _pids(program.end(), "ready")


# -- replacement


def test_worker_that_is_killed(tmp_path: Path) -> None:
    """It is replaced in its place, and the others work on."""
    with Program(tmp_path, 2) as program:
        begun = program.read_until("ready")[:2]
        first, second = (words[1] for words in begun)
        os.kill(int(first), signal.SIGKILL)
        replaced = program.read_until("started")[-1]
        assert replaced[1] not in {first, second}
        assert replaced[2] == begun[0][2]
        rest = program.end()
        assert _pids(rest, "drained") == {second, replaced[1]}
        assert rest[-2] == ["over", "1", "0", "0"]
        errors = program.errors()
        assert f"worker {first} ended with status -9 and is replaced" in errors
        assert errors.count("forking") == 3, "what children must not inherit is dropped each time"


def test_worker_that_dies_again_and_again(tmp_path: Path) -> None:
    """Each replacement comes later than the one before: no storm of forks."""
    with Program(tmp_path, 1) as program:
        program.read_until("ready")
        program.orders.write_text("")
        times = []
        pid = ""
        os.kill(int(_children(program)[0]), signal.SIGKILL)
        for _ in range(5):
            pid = program.read_until("started")[-1][1]
            times.append(time.monotonic())
            os.kill(int(pid), signal.SIGKILL)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps[-1] > 0.1, gaps
        program.end()


def _children(program: Program) -> list[str]:
    with open(f"/proc/{program.process.pid}/task/{program.process.pid}/children") as file:
        return file.read().split()


def test_worker_that_ends_of_itself(tmp_path: Path) -> None:
    """It is replaced as any other; or, if they belong together, it is the end of all."""
    for more, ends in (("{}", False), ("{'together': True}", True)):
        with Program(tmp_path, 2, more=more) as program:
            first, second = (words[1] for words in program.read_until("ready")[:2])
            os.kill(int(first), signal.SIGTERM)
            if ends:
                rest = list(program.lines())
                assert _pids(rest, "drained") == {first, second}
                assert program.process.wait(10) == 0
            else:
                program.read_until("started")
                assert second in _pids(program.end(), "drained")


def test_worker_that_hangs(tmp_path: Path) -> None:
    """It is killed and replaced; the other, which shows signs of life, works on."""
    with Program(tmp_path, 2, "beats", "{'patience': 1.0}") as program:
        hung, other = (words[1] for words in program.read_until("ready")[:2])
        os.kill(int(hung), signal.SIGSTOP)
        replaced = program.read_until("started")[-1][1]
        assert replaced not in {hung, other}
        rest = program.end()
        assert _pids(rest, "drained") == {other, replaced}
        assert rest[-2:] == [["over", "1", "0", "0"], ["hung", "1"]]
        errors = program.errors()
        assert f"worker {hung} hangs and is killed: no sign of life for 1 seconds" in errors
        assert f"worker {hung} ended with status -9 and is replaced" in errors


def test_worker_that_shows_no_heartbeat(tmp_path: Path) -> None:
    """One that never has is left alone, however long it takes."""
    with Program(tmp_path, 2, more="{'patience': 0.1, 'watchdog': 0.3}") as program:
        pids = _pids(program.read_until("ready"), "started")
        for _ in range(5):
            program.read_until("notify", "'WATCHDOG=1'")
        rest = program.end()
        assert _pids(rest, "drained") == pids
        assert rest[-1] == ["hung", "0"]


# -- reload


def test_reload(tmp_path: Path) -> None:
    """A new generation gets ready, then the old one drains; the service manager is told."""
    with Program(tmp_path, 2) as program:
        old = _pids(program.read_until("ready"), "started")
        program.orders.write_text("new")
        program.tell(signal.SIGHUP)
        seen = program.read_until("drained") + program.read_until("drained")
        assert any(words[1].startswith("'RELOADING=1\\nMONOTONIC_USEC=") for words in seen)
        new = {words[1] for words in seen if words[0] == "started" and words[3:] == ["new"]}
        assert len(new) == 2
        assert _pids(seen, "drained") == old
        assert ["ready"] not in seen
        rest = program.end()
        assert _pids(rest, "drained") == new
        assert rest[-2] == ["over", "0", "1", "0"]


def test_bad_reload(tmp_path: Path) -> None:
    """It is refused with a line, and the old workers go on."""
    with Program(tmp_path, 2) as program:
        old = _pids(program.read_until("ready"), "started")
        program.orders.write_text("bad")
        program.tell(signal.SIGHUP)
        program.read_until("notify", "'READY=1\\nSTATUS=2", "workers;", "not", "reloaded:")
        rest = program.end()
        assert _pids(rest, "drained") == old
        assert rest[-2] == ["over", "0", "0", "1"]
        assert "reload failed; keeping the previous workers: the file is bad" in program.errors()


@pytest.mark.parametrize("orders", ["fails", "hangs"])
def test_new_generation_that_does_not_get_ready(tmp_path: Path, orders: str) -> None:
    """It is given up, and the old one goes on; so do replacements, as before."""
    with Program(tmp_path, 2) as program:
        old = _pids(program.read_until("ready"), "started")
        program.orders.write_text(orders)
        program.tell(signal.SIGHUP)
        # Where the first has failed the second is ended, maybe before it can say a word.
        hanging = program.started(2 if orders == "hangs" else 1)
        if orders == "hangs":
            os.kill(int(min(hanging)), signal.SIGKILL)
        program.read_until("notify", "'READY=1\\nSTATUS=2")
        os.kill(int(min(old)), signal.SIGKILL)
        replaced = program.read_until("started")[-1]
        assert replaced[3:] == []
        rest = program.end()
        assert _pids(rest, "drained") == old - {min(old)} | {replaced[1]}
        assert rest[-2] == ["over", "1", "0", "1"]


def test_new_generation_that_takes_too_long(tmp_path: Path) -> None:
    """It is given up, and the old one goes on."""
    with Program(tmp_path, 2) as program:
        old = _pids(program.read_until("notify", "'READY=1\\nSTATUS=2"), "started")
        program.orders.write_text("hangs late")
        program.tell(signal.SIGHUP)
        program.read_until("notify", "'READY=1\\nSTATUS=2")
        assert _pids(program.end(), "drained") == old
        assert "the new workers are not ready after 0 s" in program.errors()


def test_reload_while_reloading(tmp_path: Path) -> None:
    """The second begins when the first is done: what it is about may have come in between."""
    with Program(tmp_path, 1) as program:
        program.read_until("ready")
        program.orders.write_text("one")
        program.tell(signal.SIGHUP)
        program.read_until("started")
        program.orders.write_text("two")
        program.tell(signal.SIGHUP)
        # Those of before drain meanwhile, and say so whenever they have.
        while program.read_until("started")[-1][3:] != ["two"]:
            pass
        program.read_until("notify", "'READY=1\\nSTATUS=1")
        assert program.end()[-2][0] == "over"


def test_watching(tmp_path: Path) -> None:
    """What is watched is looked at again and again; a change is a reload, and the same is none."""
    more = "{'watch': orders.read_text, 'seen': orders.read_text()}"
    with Program(tmp_path, 1, more=more) as program:
        program.read_until("ready")
        program.orders.write_text("new")
        assert program.read_until("started")[-1][3:] == ["new"]
        program.read_until("drained")
        assert program.end()[-2] == ["over", "0", "1", "0"]


def test_watchdog(tmp_path: Path) -> None:
    """It hears of us more often than it asks for."""
    with Program(tmp_path, 1, more="{'watchdog': 0.05}") as program:
        program.read_until("ready")
        for _ in range(3):
            program.read_until("notify", "'WATCHDOG=1'")
        program.end()


# -- a successor


def test_successor(tmp_path: Path) -> None:
    """It takes over who works, after a rehearsal; if it does not come, all is as it was."""
    with Program(tmp_path, 2) as program:
        old = _pids(program.read_until("ready"), "started")
        program.tell(signal.SIGUSR2)
        passed = program.read_until("succeeded")[-1][1:]
        assert {each.partition(":")[0] for each in passed} == old
        assert {each.partition(":")[2] for each in passed} == {"1", "2"}
        rest = program.end()
        assert _pids(rest, "drained") == old
        assert "restart failed; this program goes on: planted" in program.errors()


@pytest.mark.parametrize(("orders", "status"), [("refused", 3), ("hangs late", -9)])
def test_rehearsal_that_fails(tmp_path: Path, orders: str, status: int) -> None:
    """Then there is no successor; one that does not end is killed."""
    with Program(tmp_path, 1) as program:
        program.read_until("ready")
        program.orders.write_text(orders)
        program.tell(signal.SIGUSR2)
        assert program.process.stderr is not None
        for line in program.process.stderr:
            if "restart failed" in line:
                assert f"status {status}" in line
                break
        program.orders.write_text("")
        program.tell(signal.SIGUSR2)
        program.read_until("succeeded")
        program.end()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_end_at_the_same_time(tmp_path: Path, number: int) -> None:
    """Nothing is begun then that nobody would end."""
    with Program(tmp_path, 1) as program:
        old = _pids(program.read_until("ready"), "started")
        for each in (signal.SIGSTOP, number, signal.SIGTERM, signal.SIGCONT):
            program.tell(each)
        rest = list(program.lines())
        assert program.process.wait(10) == 0
        assert _pids(rest, "drained") == old
        assert not _pids(rest, "started")
        assert not _pids(rest, "rehearses")


def test_end_just_before_a_successor(tmp_path: Path) -> None:
    """A request that comes when the pipe was read already is heeded, not lost with the program."""
    with Program(tmp_path, 1) as program:
        old = _pids(program.read_until("ready"), "started")
        program.orders.write_text("overtaken")
        program.tell(signal.SIGUSR2)
        rest = list(program.lines())
        assert program.process.wait(10) == 0
        assert _pids(rest, "drained") == old
        assert not _pids(rest, "succeeded")


def test_end_during_a_rehearsal(tmp_path: Path) -> None:
    """It is killed, or it would be there for ever."""
    with Program(tmp_path, 1) as program:
        program.read_until("ready")
        program.orders.write_text("hangs")
        program.tell(signal.SIGUSR2)
        program.read_until("rehearses")
        program.end()  # which waits for all that could write to where it writes
