"""Tests of process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tlsify.errors import ConfigError
from tlsify.system import process
from tlsify.system.process import Account, await_threads, protect_process

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATTERN = Path("/proc/sys/kernel/core_pattern")
_SECRET = b"planted-" + b"secret" * 4
# Each makes the secret only in memory: what is in argv may be found in anybody's core.
_PLANT = "secret = bytes(b ^ 1 for b in bytes.fromhex(sys.argv[1]))"
_PROGRAMS = {
    "unprotected": "os.abort()",
    "protected": "protect_process(); os.abort()",
    "forked": "protect_process(); os.fork() or os.abort(); os.wait()",
    "command": """
import contextlib, tlsify.cli
with contextlib.suppress(SystemExit):
    tlsify.cli.main(["--version"])
os.abort()
""",
    "executed": 'protect_process(); os.execlp("sh", "sh", "-c", "kill -ABRT $$")',
}


@pytest.fixture
def cores(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this kernel leaves its core dumps."""
    before = _PATTERN.read_text("ascii")
    tmp_path.chmod(0o777)
    _PATTERN.write_text(f"{tmp_path}/core.%p", "ascii")
    yield tmp_path
    _PATTERN.write_text(before, "ascii")


def _unlimited() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _dump(how: str) -> int:
    """Run a program that plants a secret and dies; return how it ended."""
    script = f"import os, sys; from tlsify.system.process import protect_process; {_PLANT}\n"
    masked = bytes(b ^ 1 for b in _SECRET).hex()
    words = [sys.executable, "-c", script + _PROGRAMS[how], masked]
    ran = subprocess.run(words, check=False, preexec_fn=_unlimited, stdout=subprocess.DEVNULL)
    return ran.returncode


@pytest.mark.ktls  # for the sake of the guests, which are ours to set up
@pytest.mark.parametrize("how", _PROGRAMS)
def test_core_dumps(cores: Path, how: str) -> None:
    """Nothing is dumped of a protected process, nor of what it forks, until it execs."""
    expected = 0 if how == "forked" else -signal.SIGABRT
    assert _dump(how) == expected
    found = [path.read_bytes() for path in cores.iterdir()]
    assert len(found) == (how in {"unprotected", "executed"})
    assert any(_SECRET in core for core in found) == (how == "unprotected")


def test_nobody_may_look() -> None:
    """PR_GET_DUMPABLE says 0 of a protected process; what it execs is as any other."""
    look = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)"
    script = f"""
import os, sys
from tlsify.errors import ConfigError
from tlsify.system.process import Account, await_threads, protect_process
protect_process()
{look}
os.execv(sys.executable, [sys.executable, "-c", {look!r}])
"""
    words = [sys.executable, "-c", script]
    assert subprocess.run(words, check=True, capture_output=True).stdout == b"0\n1\n"


def test_kernel_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is an error, not a shrug."""
    monkeypatch.setattr(process, "_PR_SET_DUMPABLE", -1)
    with pytest.raises(OSError, match="Invalid") as raised:
        protect_process()
    assert raised.value.errno == errno.EINVAL


_CHILD = """
import os, sys, time
from tlsify.system.process import end_with
parent = os.getpid()
if os.fork() == 0:
    if {late}:
        while os.getppid() == parent:
            time.sleep(0.001)
    else:
        end_with(parent)
    os.write(1, b"ready")
    if {late}:
        end_with(parent)
    time.sleep(60)
    os.write(1, b"too late")
    os._exit(0)
if not {late}:
    time.sleep(60)
"""


@pytest.mark.parametrize("late", [False, True])
def test_end_with_the_parent(*, late: bool) -> None:
    """A child ends when its parent does, be that before it could say so."""
    words = [sys.executable, "-c", _CHILD.format(late=late)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read(5) == b"ready"
        parent.kill()
        assert parent.stdout.read() == b""  # nobody has the other end any more


# -- accounts


def test_account_by_name() -> None:
    """Its groups come with it; a group may be named."""
    account = Account.parse("nobody")
    assert account.user == pwd.getpwnam("nobody").pw_uid
    assert account.group in account.groups
    assert Account.parse("nobody:root").group == 0


@pytest.mark.parametrize("text", ["", "no-such-user", "nobody:no-such-group", ":root"])
def test_account_that_does_not_exist(text: str) -> None:
    """It is refused with the spelling that is expected."""
    with pytest.raises(ConfigError, match="no such user or group"):
        Account.parse(text)


@pytest.mark.parametrize(
    ("uid", "gid", "expected"),
    [("1", "2", Account(1, 2, ())), ("", "", None), (None, None, None)],
)
def test_account_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, uid: str | None, gid: str | None, expected: Account | None
) -> None:
    """TLS_UID and TLS_GID name it, or nobody does."""
    for name, value in (("TLS_UID", uid), ("TLS_GID", gid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert Account.from_environment() == expected


@pytest.mark.parametrize(("uid", "gid"), [("1", ""), ("", "1"), ("root", "root")])
def test_account_that_is_half_named(monkeypatch: pytest.MonkeyPatch, uid: str, gid: str) -> None:
    """That cannot be meant."""
    monkeypatch.setenv("TLS_UID", uid)
    monkeypatch.setenv("TLS_GID", gid)
    with pytest.raises(ConfigError, match="TLS_UID and TLS_GID"):
        Account.from_environment()


_BECOME = """
import os
from pathlib import Path
from tlsify.system.process import Account
Account(12345, 12346, (7,)).become()
print(os.getresuid(), os.getresgid(), os.getgroups())
try:
    Path("/proc/self/mem").open("rb").close()
except PermissionError:
    print("nobody looks in")
"""


def _run_python(program: str) -> str:
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return str(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_becoming_somebody() -> None:
    """For good, with all of its groups, and without becoming readable by that."""
    said = "(12345, 12345, 12345) (12346, 12346, 12346) [7]\nnobody looks in\n"
    assert _run_python(_BECOME) == said


def test_becoming_oneself() -> None:
    """It takes no rights."""
    own = Account(os.geteuid(), os.getegid(), tuple(os.getgroups()))
    own.check()
    own.become()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can begin as somebody else")
@pytest.mark.parametrize(
    ("users", "groups", "more", "left"),
    [
        ((0, 5, 0), (6, 6, 6), [7], {7}),
        ((5, 5, 0), (6, 6, 6), [7], {7}),
        ((0, 5, 5), (0, 6, 0), [], {7}),
        ((5, 0, 0), (6, 0, 0), [0, 8], {7}),
        ((5, 5, 5), (6, 6, 6), [6, 7], {6, 7}),
        ((5, 5, 5), (6, 6, 6), [8], {8}),
        ((5, 5, 5), (6, 6, 0), [], set()),
        ((5, 5, 5), (8, 8, 8), [], None),
        ((9, 9, 9), (6, 6, 6), [], None),
    ],
)
def test_becoming_oneself_alone(
    users: tuple[int, int, int],
    groups: tuple[int, int, int],
    more: list[int],
    left: set[int] | None,
) -> None:
    """Ids that were put aside, and groups of before, are given up; or that is refused."""
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            os.setgroups(more)
            os.setresgid(*groups)
            os.setresuid(*users)
            account = Account(5, 6, (7,))
            try:
                account.check()
                account.become()
            except ConfigError:
                status = 2
            else:
                ids = (os.getresuid(), os.getresgid()) == ((5,) * 3, (6,) * 3)
                status = not (ids and {*os.getgroups()} == left)
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (2 if left is None else 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can begin as somebody else")
def test_only_root_may() -> None:
    """Whoever is nobody in particular stays so."""
    program = """
import os
from tlsify.errors import ConfigError
from tlsify.system.process import Account
os.setresuid(65534, 65534, 65534)
try:
    Account(1, 1, ()).become()
except ConfigError as exc:
    print(exc)
"""
    said = _run_python(program)
    assert "cannot become user 1, group 1" in said


# -- forks and signals


@pytest.fixture
def handlers() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP have a handler, which notes them; what woke us up is on the pipe."""
    noted: list[int] = []
    reader, writer = os.pipe2(os.O_NONBLOCK)
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, lambda number, _: noted.append(number)) for each in numbers}
    old = signal.set_wakeup_fd(writer)
    yield noted
    signal.set_wakeup_fd(old)
    for number, handler in before.items():
        signal.signal(number, handler)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)


def test_letting_go_above_the_limit() -> None:
    """Numbers that the limit allows no more are closed; others stay taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reading, writing = os.pipe()
    high = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (high, hard))
    try:
        process.let_go([high, writing])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.read(reading, 1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(high)
    assert os.path.samestat(os.fstat(writing), os.stat(os.devnull))
    for number in (reading, writing):
        os.close(number)


def test_signal_to_a_child_just_forked(handlers: list[int]) -> None:
    """It ends the child; the parent hears nothing of it, in either way."""
    for _ in range(50):
        pid = process.fork()
        if pid == 0:
            while True:
                signal.pause()
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    assert not handlers


def test_signals_of_a_child(handlers: list[int]) -> None:
    """None is blocked that was not before; some are ignored; Ctrl-C is what it was."""
    del handlers
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    pid = process.fork(ignored=[signal.SIGHUP])
    if pid == 0:
        found = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        expected = [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler]
        os._exit(0 if found == expected and masked == {signal.SIGUSR1} else 1)
    assert signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]) == {signal.SIGUSR1}
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_one_request_to_end_and_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows at once is the first once more."""
    times = iter([10.0, 10.0, 10.2, 10.4, 11.0])
    clock = SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr("tlsify.system.process.time", clock)
    requests = process.StopRequests()
    assert [requests.insist() for _ in range(5)] == [False, False, False, True, True]


# -- the end


def test_waiting_for_threads() -> None:
    """For all but those that do not matter, which are daemons; in a process that ends then."""
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return
    go_on = threading.Event()
    waits = threading.Thread(target=go_on.wait)
    daemon = threading.Thread(target=threading.Event().wait, daemon=True)
    waits.start()
    daemon.start()
    threading.Timer(0.01, go_on.set).start()
    await_threads()
    os._exit(waits.is_alive() or not daemon.is_alive())


def test_no_new_rights() -> None:
    """Nothing that is executed from now on gives any."""
    program = """
from pathlib import Path
from tlsify.system.process import forgo_rights
forgo_rights()
print(Path("/proc/self/status").read_text())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) == 0
