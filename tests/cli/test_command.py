"""Tests of command: streams that are closed, full or slow."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

import pytest

from tests.cli.harness import COMMAND, ENVIRONMENT, LOOPBACK, PATIENCE, finish, run, start
from tlsify.cli import streams


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["check"], ["check", "--json"], ["status", "--watch"]]
)
def test_disk_full(words: list[str]) -> None:
    """Output that cannot be written gives 111, once."""
    with open("/dev/full", "wb") as full:
        run(*words, stdout=full).failed(111, "stdout: ENOSPC", "space")


@pytest.mark.parametrize("words", [["--version"], ["check"], ["connect", "--help"]])
def test_reader_gone(words: list[str]) -> None:
    """Where nobody reads what is printed the command ends as others do, by SIGPIPE, in silence."""
    process = start(*words, stdin=None)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert finish(process) == (128 + signal.SIGPIPE, b"", "")


def test_stdout_closed() -> None:
    """What was asked for cannot be told: that is no success."""
    words = (*COMMAND, "--version")
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        env=ENVIRONMENT,
        check=False,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        text=True,
    )
    assert done.returncode == 111
    assert done.stderr.startswith("tlsify: error: stdout: EBADF")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_stream_that_does_not_wait(name: str) -> None:
    """A parent may have set O_NONBLOCK: what is printed waits for room, and is whole."""
    words = ("connect", "--help") if name == "stdout" else ("connect", "--fd", "x" * 5000)
    expected = run(*words)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(writer, bytes(2**12))
    process = start(*words, **{name: writer})
    os.close(writer)
    received = b""
    while more := streams.read(reader, 2**12):
        received += more
    os.close(reader)
    assert finish(process).status == expected.status
    assert received[filled:] == (expected.out if name == "stdout" else expected.err.encode())


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&- >&-"])
def test_unusable_stderr(redirection: str) -> None:
    """Without a usable stderr the exit status still tells, and stdout stays clean."""
    words = (*COMMAND, "connect", LOOPBACK, "1")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *words],
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (102, b"", b"")
