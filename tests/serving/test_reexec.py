"""Tests of reexec: programs that leave things to each other, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.harness import finish, insist, read_line
from tests.doubles import check_descriptors, descriptors
from tlsify.errors import ConfigError
from tlsify.serving.reexec import Inherited
from tlsify.system import listening

# Counts its generations in the environment.
_PROGRAM = """
import os, sys
from tlsify.metrics.counters import Event, count, counters, share
from tlsify.system.listening import listen, spell
from tlsify.serving.reexec import Inherited

with Inherited.inherit() as estate:
    first, = estate.claim("first", lambda: [listen("127.0.0.1", 0)])
    words = [os.getpid(), spell(first), estate.is_rehearsal, estate.workers]
    print(*words, "TLSIFY_SUCCESSION" in os.environ, os.get_inheritable(first.fileno()))
    if estate.is_rehearsal:
        raise SystemExit(int(os.environ["STATUS"]))
    estate.counters = share(None if estate.counters == -1 else estate.counters)
    count(Event.RELOADED)
    print(counters()["reloaded"], sorted(os.listdir("/proc/self/fd")))
    generation = int(os.environ.get("GENERATION", "0"))
    os.environ["GENERATION"] = str(generation + 1)
    sys.stdout.flush()
    if generation == 0:
        estate.claim("second", lambda: [listen("127.0.0.1", 0)])
        os.environ["STATUS"] = "7"
        assert os.waitstatus_to_exitcode(os.waitpid(estate.rehearse(), 0)[1]) == 7
        assert not os.get_inheritable(first.fileno())
    if generation < 2:
        estate.succeed({1: 2, 30: 4})
"""


def test_generations() -> None:
    """Each has the sockets and counts of the one before, in the same process, and no more."""
    env = {k: v for k, v in os.environ.items() if k != "GENERATION"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first, rehearsed, second, third = lines[0], lines[2], lines[3], lines[5]
    pid, address = first.split()[:2]
    assert first.split()[2:] == ["False", "{}", "False", "False"]
    assert rehearsed.split()[0] != pid
    assert rehearsed.split()[1:] == [address, "True", "{}", "False", "False"]
    for later in (second, third):
        assert later.split(" ", 2)[:2] == [pid, address]
        assert later.endswith("False {1: 2, 30: 4} False False")
    assert [line.partition(" ")[0] for line in (lines[1], lines[4], lines[6])] == ["1", "2", "3"]
    # What the second generation did not ask for, the third does not get.
    assert lines[6].count(",") < lines[4].count(",")


def test_claims() -> None:
    """Sockets are made where there are none, once."""
    before = descriptors()
    with Inherited() as estate:
        made = estate.claim("x", lambda: [listening.listen("127.0.0.1", 0)])
        assert estate.sockets == {"x": made}
    assert made[0].fileno() == -1
    check_descriptors(before)


def test_nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable, or with a stranger's, there is nothing."""
    monkeypatch.delenv("TLSIFY_SUCCESSION", raising=False)
    assert not Inherited.inherit().workers
    left = {"pid": 1, "counters": -1, "workers": {"5": 6}, "sockets": {}}
    monkeypatch.setenv("TLSIFY_SUCCESSION", json.dumps(left))
    if os.getppid() != 1:
        assert not Inherited.inherit().workers


def test_rehearsal_without_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not become a server itself, whose end nobody knows to ask for."""
    left = {"pid": 2**22, "counters": -1, "workers": {}, "sockets": {}, "is_rehearsal": True}
    monkeypatch.setenv("TLSIFY_SUCCESSION", json.dumps(left))
    with pytest.raises(ConfigError, match="is gone"):
        Inherited.inherit()


@pytest.mark.parametrize(
    "change",
    [
        {"sockets": {"x": [0]}},
        {"sockets": {"x": [9999]}},
        {"sockets": {"x": 5}},
        {"sockets": 5},
        {"counters": "x"},
        {"counters": 9999},
        {"workers": {"x": 1}},
        {"workers": [1]},
        {"pid": None},
    ],
)
def test_nonsense(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused in one line."""
    left = {"pid": os.getpid(), "counters": -1, "workers": {}, "sockets": {}}
    monkeypatch.setenv("TLSIFY_SUCCESSION", json.dumps(left | change))
    if change == {"pid": None}:
        assert not Inherited.inherit().sockets
        return
    with pytest.raises(ConfigError, match="is not what an earlier program has left"):
        Inherited.inherit()
    assert "TLSIFY_SUCCESSION" not in os.environ


@pytest.mark.parametrize("text", ["{", "[]", "5", '"x"', "{}", "\\"])
def test_no_estate_at_all(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what is not even of that form."""
    monkeypatch.setenv("TLSIFY_SUCCESSION", text)
    with pytest.raises(ConfigError, match="is not what an earlier program has left"):
        Inherited.inherit()


def test_unknown_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python does not know its own path, there is no successor."""
    monkeypatch.setattr(sys, "executable", "")
    for begin in (Inherited().rehearse, lambda: Inherited().succeed({})):
        with pytest.raises(OSError, match="unknown"):
            begin()


def test_successor_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is as it was."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Inherited() as estate:
        (sock,) = estate.claim("x", lambda: [listening.listen("127.0.0.1", 0)])
        for begin in (estate.rehearse, lambda: estate.succeed({})):
            with pytest.raises(FileNotFoundError):
                begin()
            assert not os.get_inheritable(sock.fileno())
    after = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert after == before


_BEGINS = """
import os, signal, sys, time
from tlsify.serving.reexec import Inherited

worker = os.fork()
if worker == 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.write(1, b"works\\n")
    signal.sigwait([signal.SIGTERM])
    sys.stdin.readline()
    print("drained", flush=True)
    os._exit(0)
Inherited(workers={worker: 1}).await_workers()
os.write(1, b"begins\\n")
time.sleep(1000)
"""


@pytest.mark.parametrize("twice", [False, True])
def test_request_to_end_while_a_successor_begins(*, twice: bool) -> None:
    """It waits for the former program's workers; another request does not."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BEGINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert {read_line(process.stdout) for _ in range(2)} == {"works\n", "begins\n"}
    process.terminate()
    if twice:
        insist(process)
    outcome = finish(process, b"end\n")
    assert outcome == (-signal.SIGTERM if twice else 0, b"drained\n", "")


def test_request_to_end_that_comes_twice() -> None:
    """As timeout(1) sends it, to the process and to its group: that is one request."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BEGINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert {read_line(process.stdout) for _ in range(2)} == {"works\n", "begins\n"}
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    assert finish(process, b"end\n") == (0, b"drained\n", "")


def test_signals_of_a_successor() -> None:
    """None is lost that is for it to act on, and a request to end is one from the first moment."""
    program = """
import os, signal
from tlsify.serving import reexec
signal.signal(signal.SIGTERM, lambda *_: None)
show = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
reexec._command = lambda: ("/proc/self/exe", ["python", "-S", "-E", "-c", show])
reexec.Inherited().succeed({})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    blocked = sorted((signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD))
    assert done.stdout.split() == [b"%d" % number for number in blocked]
