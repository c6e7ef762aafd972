"""Tests of file: modes, lines of several processes, renamed files, full disks, pipes."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest

from tlsify.errors import ConfigError
from tlsify.logs.file import LONGEST, LogFile
from tlsify.metrics.counters import counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def umask() -> Iterator[None]:
    """Set the umask that removes every permission."""
    before = os.umask(0o777)
    yield
    os.umask(before)


def lost() -> int:
    """How many lines have been lost so far."""
    return counters()["log_line_lost"]


@pytest.mark.usefixtures("umask")
def test_mode(tmp_path: Path) -> None:
    """A new file can be read by its group, whatever the umask; another one keeps its mode."""
    path = tmp_path / "new"
    LogFile(str(path)).append(b"one\n")
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o604)
    LogFile(str(path)).append(b"two\n")
    assert path.stat().st_mode & 0o777 == 0o604
    path.chmod(0o600)
    assert path.read_bytes() == b"one\ntwo\n"


def test_lines_of_processes(tmp_path: Path) -> None:
    """Lines that several processes write into one file stay whole."""
    path = tmp_path / "log"
    file = LogFile(str(path))
    children = []
    for letter in b"abc":
        if (pid := os.fork()) == 0:
            for _ in range(200):
                file.append(bytes([letter]) * (LONGEST - 1) + b"\n")
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    lines = path.read_bytes().splitlines()
    assert len(lines) == 600
    assert all(len(line) == LONGEST - 1 and len(set(line)) == 1 for line in lines)


def test_renamed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Opened anew it is the file of that name; if that cannot be, it stays as it was."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    file = LogFile(str(path))
    path.rename(old)
    file.append(b"still the old one\n")
    file.reopen()
    file.append(b"the new one\n")
    path.rename(old.with_name("log.0"))
    path.mkdir()
    file.reopen()
    assert "Is a directory" in caplog.text
    file.append(b"not lost\n")
    assert old.read_bytes() == b"still the old one\n"
    assert (tmp_path / "log.0").read_bytes() == b"the new one\nnot lost\n"


def test_renamed_for_others(tmp_path: Path) -> None:
    """Processes that were forked before go on in the new file, though they could not open it."""
    path = tmp_path / "log"
    file = LogFile(str(path))
    told, tell = os.pipe()
    wrote, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(tell)
        path.chmod(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (write + 2, write + 2))  # one at a time
        while os.read(told, 1):
            file.append(b"child\n")
            os.write(write, b"\0")
        os._exit(0)
    os.close(told)
    for name, times in (("log.0", 1), ("log.1", 2), ("log.2", 1)):  # twice: it has missed one
        os.write(tell, b"\0")
        os.read(wrote, 1)
        path.rename(tmp_path / name)
        for _ in range(times):
            file.reopen()
    os.write(tell, b"\0")
    os.close(tell)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(wrote)
    os.close(write)
    names = ("log.0", "log.1", "log.2", "log")
    assert [(tmp_path / name).read_bytes() for name in names] == [b"child\n"] * 4


def test_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without room lines are lost and counted; the next begins on a line of its own."""
    path, before = tmp_path / "log", lost()
    if (pid := os.fork()) == 0:
        file = LogFile(str(path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (6, resource.RLIM_INFINITY))
        for line in (b"123\n", b"456\n", b"789\n"):
            file.append(line)
        number = lost() - before
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        file.append(b"abc\n")
        os._exit(number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    assert path.read_bytes() == b"123\n45\nabc\n"
    full = LogFile("/dev/full")
    full.append(b"x\n")
    full.append(b"x\n")
    assert lost() == before + 2
    assert caplog.messages == ["lines of the access log are lost: ENOSPC: No space left on device"]


def test_pipe(tmp_path: Path) -> None:
    """A pipe that is not read keeps nobody waiting; without a reader it is refused."""
    path, before = tmp_path / "pipe", lost()
    os.mkfifo(path)
    with pytest.raises(ConfigError) as caught:
        LogFile(str(path))
    assert "reader" in caught.value.hint
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LogFile(str(path))
    while lost() == before:
        file.append(b"x" * (LONGEST - 1) + b"\n")
    read = os.read(reader, 2**20)
    assert len(read) % LONGEST == 0
    assert set(read[LONGEST - 1 :: LONGEST]) == {ord("\n")}
    os.close(reader)
    file.append(b"x\n")
    assert lost() == before + 2


@pytest.mark.parametrize("ends", [os.pipe, os.openpty], ids=["pipe", "terminal"])
def test_stdout_without_a_reader(ends: Callable[[], tuple[int, int]]) -> None:
    """It keeps nobody waiting either, whoever else fills it: `poll` is no promise."""
    reader, writer = ends()
    if (pid := os.fork()) == 0:
        os.dup2(writer, 1)
        file = LogFile("-")
        file._poller = None  # as if another process had filled it just behind it
        before = lost()
        while lost() == before:
            file.append(b"x" * (LONGEST - 1) + b"\n")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(reader)
    os.close(writer)


def test_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    """Stdout is written to as it is, and never closed."""
    file = LogFile("-")
    file.reopen()
    file.append(b"line\n")
    assert capfd.readouterr().out == "line\n"


@pytest.mark.parametrize(
    ("name", "number"), [("", errno.ENOENT), ("none/log", errno.ENOENT), (".", errno.EISDIR)]
)
def test_refused(tmp_path: Path, name: str, number: int) -> None:
    """The error names the file and the cause."""
    path = str(tmp_path / name) if name else ""
    with pytest.raises(ConfigError, match=os.strerror(number)):
        LogFile(path)
