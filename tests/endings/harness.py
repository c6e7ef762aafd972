"""Programs of the table, each in a process of its own that a template forks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, Any, Self

from tests.endings.peers import PATIENCE

_MAX_MESSAGE = 2**16


class Template:
    """The process that forks them."""

    def __init__(self, *, many: bool) -> None:
        """Start it; for many programs it imports beforehand what they may need."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(PATIENCE)
        with theirs:
            module = [sys.executable, "-m", "tests.endings.template"]
            words = [*module, str(theirs.fileno()), "many" if many else "few"]
            self._process = subprocess.Popen(
                words,
                pass_fds=[theirs.fileno()],
                # What sys.stdin and sys.stdout have found out must be true of its children's.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        self._statuses: dict[int, int] = {}

    def __enter__(self) -> Self:
        """Fork."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._channel.close()
        self._process.communicate(timeout=PATIENCE)

    def fork(self, job: dict[str, Any], *descriptors: int) -> int:
        """Start a program; return its process."""
        socket.send_fds(self._channel, [json.dumps(job).encode()], descriptors)
        while True:
            told = self._hear()
            if "status" not in told:
                return told["pid"]

    def status(self, pid: int) -> int:
        """Wait for the end of a program; return its exit status."""
        while pid not in self._statuses:
            self._hear()
        return self._statuses.pop(pid)

    def _hear(self) -> dict[str, int]:
        told: dict[str, int] = json.loads(self._channel.recv(_MAX_MESSAGE))
        if "status" in told:
            self._statuses[told["pid"]] = told["status"]
        return told


class Process:
    """One program.

    Attributes:
        stdin: what it reads, if it was started with a pipe.
        stdout: what it writes, likewise.
    """

    def __init__(self, template: Template, **job: Any) -> None:
        """Start it; the arguments are the job's."""
        self._template = template
        self._line, theirs = socket.socketpair()
        self._line.settimeout(PATIENCE)
        self._lines = self._line.makefile("rb")
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        reader, self._stdin = os.pipe()
        stdout, writer = os.pipe()
        self.stdin, self.stdout = os.fdopen(self._stdin, "wb", 0), os.fdopen(stdout, "rb", 0)
        self._status: int | None = None
        self.pid = template.fork(job, theirs.fileno(), reader, writer, self._errors.fileno())
        theirs.close()
        os.close(reader)
        os.close(writer)

    def __enter__(self) -> Self:
        """Run."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End it, however the test ended; that tells what it has said."""
        if error is not None:
            error.add_note(f"stderr: {self.errors()}")
        self._lines.close()
        self._line.close()
        self.stdin.close()
        if self._status is None:
            self.kill()
            self.status()
        self.stdout.close()
        self._errors.close()

    def hear(self) -> dict[str, Any]:
        """Wait for the next that it tells."""
        message = self._lines.readline()
        if not message:
            raise AssertionError(f"it has ended: {self.errors()}")
        told: dict[str, Any] = json.loads(message)
        return told

    def say(self, word: str) -> None:
        """Return a word to a program that waits for one, if it still does."""
        with suppress(BrokenPipeError):
            self._line.send(word.encode() + b"\n")

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def status(self) -> int:
        """Wait for its end; return its exit status."""
        if self._status is None:
            self._status = self._template.status(self.pid)
        return self._status

    def await_end(self) -> None:
        """Wait until it and all that it has forked have ended."""
        with suppress(ConnectionResetError):  # a word of ours was left unread
            self._lines.read()

    def errors(self) -> str:
        """Return what it has written to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode()
