"""What the programs of the table do, each in a process of its own."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from tests.endings.doors import DOORS, Door, drive
from tests.endings.table import SIZE, TIMES
from tlsify.cli import main
from tlsify.connection import keeper
from tlsify.connection.ending import patience
from tlsify.errors import Truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_PIECES = 10
# Where a command's program finds the line to the test.
LINE = 9
_kept: list[Door] = []


class Line:
    """The line to the test."""

    def __init__(self, descriptor: int) -> None:
        """Store it."""
        self._sock = socket.socket(fileno=descriptor)
        self._words = self._sock.makefile("rb", 0)

    def say(self, **what: object) -> None:
        """Report something."""
        self._sock.sendall(json.dumps(what).encode() + b"\n")

    def wait(self) -> None:
        """Wait for a word of the test's, or for its end."""
        self._words.readline()


def run(job: dict[str, Any]) -> None:
    """Run a program, or the command, as the main of this process."""
    keeper._PARTING = patience.PATIENCE = job["patience"]
    if "command" in job:
        os.dup2(job["line"], LINE)
        os.close(job["line"])
        sys.exit(main(job["command"]))
    line = Line(job["line"])
    door = DOORS[job["door"]](job, line)
    work = PROGRAMS[job["program"]](door, line)
    if job["program"] == "_exit":
        _in_a_child(lambda: door.run(work))
    else:
        door.run(work)


def _in_a_child(work: Callable[[], object], beside: Callable[[], object] = int) -> None:
    """Do something in a forked child, which ends by os._exit right after it.

    Args:
        work: the child's.
        beside: ours, before we wait for its end.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    beside()
    if os.waitpid(pid, 0)[1]:
        raise AssertionError("the child has failed")


async def _send(door: Door) -> None:
    # To somebody who goes until that is told.
    for _ in range(TIMES.get(door.job["peer"], 1) * _PIECES):
        await door.send(bytes(SIZE // _PIECES))
    await door.flush()


@contextlib.contextmanager
def _telling(line: Line) -> Iterator[None]:
    """Report to the test what the block was told."""
    told = "nothing"
    try:
        yield
    except Exception as exc:  # the test judges it
        told = _spelt(exc)
    line.say(at="done", told=told)


def _spelt(error: Exception) -> str:
    """Name an error as the table does."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset"
    is_cut = isinstance(error, Truncated) or type(error).__name__ == "SSLEOFError"
    return "cut" if is_cut or isinstance(error.__cause__, Truncated) else repr(error)


async def _begin(door: Door, line: Line) -> None:
    await door.open()
    line.say(at="connected", offload=door.offload)
    line.wait()


async def _close(door: Door, line: Line) -> None:
    await _begin(door, line)
    with _telling(line):
        await _send(door)
        door.close()
    await door.closed()


async def _wait(door: Door, line: Line) -> None:
    await _begin(door, line)
    told = "end"
    try:
        await _send(door)
        door.shutdown()
        line.say(at="sent")
        while await door.receive():
            pass
    except Exception as exc:  # the test judges it
        told = _spelt(exc)
    line.say(at="done", told=told)
    door.close()
    await door.closed()


async def _return(door: Door, line: Line) -> None:
    await _begin(door, line)
    with _telling(line):
        await _send(door)
    _kept.append(door)


async def _exit(door: Door, line: Line) -> None:
    await _return(door, line)
    raise SystemExit(3)


async def _raise(door: Door, line: Line) -> None:
    await _return(door, line)
    raise RuntimeError("the program's own")


async def _exit_at_once(door: Door, line: Line) -> None:
    """Report to the test before closing, which may take until the peer reads."""
    await _begin(door, line)
    await _serve(door, line)
    await door.closed()


async def _serve(door: Door, line: Line) -> None:
    with _telling(line):
        await _send(door)
    door.close()


async def _kill(door: Door, line: Line) -> None:
    await _return(door, line)
    os.kill(os.getpid(), signal.SIGKILL)


async def _serve_in_child(door: Door, line: Line) -> None:
    if door.job["door"] == "socketserver":  # which forks by itself
        await _exit_at_once(door, line)
        return
    await _begin(door, line)
    reader, writer = os.pipe()

    def serve() -> None:
        os.close(writer)
        os.read(reader, 1)  # until the parent has closed its copy
        drive(_serve(door, line))

    def let_go() -> None:
        door.close()
        os.close(writer)

    _in_a_child(serve, let_go)


async def _close_in_child(door: Door, line: Line) -> None:
    await _begin(door, line)
    _in_a_child(door.close)
    with _telling(line):
        await _send(door)
        door.close()


async def _drop(door: Door, line: Line) -> None:
    await _begin(door, line)
    with _telling(line):
        await _send(door)
        door.drop()
        gc.collect()
    line.wait()


async def _abort(door: Door, line: Line) -> None:
    await _begin(door, line)
    with _telling(line):
        await _send(door)
        door.abort()
    await door.closed()
    line.wait()


PROGRAMS: dict[str, Callable[[Door, Line], Coroutine[Any, Any, None]]] = {
    "close": _close,
    "wait": _wait,
    "return": _return,
    "exit": _exit,
    "raise": _raise,
    "_exit": _exit_at_once,
    "kill": _kill,
    "serve-in-child": _serve_in_child,
    "close-in-child": _close_in_child,
    "drop": _drop,
    "abort": _abort,
}
