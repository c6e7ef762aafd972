"""The command in a fork of the test's process, where nothing has to be imported anew."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, NoReturn, Self

from tests.cli.harness import PATIENCE, Outcome
from tests.doubles import Endpoint, descriptors
from tests.interop.programs import AS_ROOT
from tlsify.cli import main
from tlsify.errors import ExitCode
from tlsify.metrics import counters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


_COUNTS = counters._CELL * counters._WIDTH


class Forked:
    """A command in a forked child.

    It shows nothing of imports and of start-up: what has to be there before a sandbox, say.

    Attributes:
        output: read end of its stdout.
    """

    def __init__(
        self,
        *words: str | int | Path,
        within: AbstractContextManager[object] | None = None,
        command: Callable[[list[str]], int] = main,
    ) -> None:
        """Fork it; it does all within a context."""
        self._within = within or nullcontext()
        self._command = command
        self._said = b""
        self._errors, errors = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.output, theirs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
            self._pid = os.fork()
        if not self._pid:
            os.set_blocking(errors, True)
            self._run([str(word) for word in words], theirs, errors)
        os.close(theirs)
        os.close(errors)

    def _run(self, words: list[str], output: int, errors: int) -> NoReturn:
        status: object = ExitCode.BUG
        try:
            os.setpgid(0, 0)
            for descriptor, number in ((output, 1), (errors, 2)):
                os.dup2(descriptor, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdin = os.fdopen(0)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            logging.root.handlers.clear()  # pytest's
            counters._memory = counters._Memory(memoryview(bytearray(_COUNTS)).cast("q"))  # its own
            warnings.simplefilter("always", ResourceWarning)
            with self._within:
                status = self._command(words)
        except SystemExit as exc:
            status = exc.code
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status if isinstance(status, int) else ExitCode.BUG)

    def __enter__(self) -> Self:
        """It runs."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os.close(self.output)
        os.close(self._errors)

    def line(self) -> str:
        """Read a line that it prints; nothing if it ends without one."""
        found = b""
        while not found.endswith(b"\n") and (more := os.read(self.output, 1)):
            found += more
        return found.decode()

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(descriptors(self._pid))

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self._pid, number)

    def end(self) -> int:
        """Wait for its end; return its exit status. What it said is to the point, if anything."""
        status = Endpoint(lambda: os.waitpid(self._pid, 0)[1]).result(PATIENCE)
        assert "Traceback" not in self.said(), self.said()
        assert "bug" not in self.said(), self.said()
        return os.waitstatus_to_exitcode(status)

    def said(self) -> str:
        """Return what it has written to stderr."""
        with suppress(BlockingIOError):
            while more := os.read(self._errors, 2**16):
                self._said += more
        return self._said.decode()


def refused(*words: str | int | Path) -> Outcome:
    """Run a command that ends at once, since it is misused or what it is told is no use."""
    with Forked(*words) as command:
        out = b""
        while more := os.read(command.output, 2**16):
            out += more
        status = command.end()
        return Outcome(status, out, AS_ROOT.sub("", command.said()))
