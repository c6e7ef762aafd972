"""Run a peer's program: feed it, collect what it prints, wait until it listens, end it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.doubles import Endpoint, ends
from tests.interop.matrix import SIZE
from tests.provision import find

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds for one step. Generous: under TCG a guest is fifteen times slower than its host, which it
# may have to share.
PATIENCE = 60.0 + SIZE / 100_000
# Seconds for one test.
TIMEOUT = 100.0 + 4 * PATIENCE
_CHUNK = 2**16
# What servers tell root, who may well be the one that runs tests.
AS_ROOT = re.compile(r"^.*(s run as root|--isolate-key keeps .* only).*\n", re.MULTILINE)


def require(program: str) -> None:
    """Skip where peers cannot be had, and fail where only this one is missing."""
    find(program)


class Program:
    """One running program; its standard input stays open until it is closed or fed to its end.

    What it prints is collected in the background, so that it never blocks on a full pipe.
    """

    def __init__(self, words: Sequence[str], feed: bytes = b"", *, end_input: bool = False) -> None:
        """Start it.

        Args:
            words: the command.
            feed: what it reads on its standard input.
            end_input: whether that is all of its input.
        """
        self._errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        self._feed, self._end_input = feed, end_input
        self._collected = bytearray()
        self._ended = False
        self._progress = threading.Condition()
        self._feeder = Endpoint(self._write)
        self._reader = Endpoint(self._read)

    def _write(self) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        view = memoryview(self._feed)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(stdin.fileno(), view[:_CHUNK]) :]
        if self._end_input:
            stdin.close()

    def close_input(self) -> None:
        """End its input, once it has been fed what there was."""
        self._feeder.result(PATIENCE)
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _read(self) -> bytes:
        stdout = self.process.stdout
        assert stdout is not None
        data = b"-"
        while data:
            data = os.read(stdout.fileno(), _CHUNK)
            with self._progress:
                self._collected += data
                self._ended = not data
                self._progress.notify_all()
        return bytes(self._collected)

    def wait_for(self, pattern: bytes) -> re.Match[bytes]:
        """Wait until it has printed something."""
        with self._progress:
            said = self._progress.wait_for(
                lambda: re.search(pattern, self._collected) or self._ended,
                PATIENCE,
            )
        assert isinstance(said, re.Match), f"{pattern!r} was not printed: {self.errors()}"
        return said

    def output(self) -> bytes:
        """Wait for its end in good order, and give all that it printed."""
        assert self.status() == 0, self.errors()
        return bytes(self._collected)

    def errors(self) -> str:
        """Return what it has written to its standard error so far."""
        size = os.fstat(self._errors.fileno()).st_size
        # Not by seek: the program shares the file's position.
        said = os.pread(self._errors.fileno(), size, 0).decode("utf-8", "replace")
        return AS_ROOT.sub("", said)

    def status(self) -> int:
        """Wait for its end, and give its exit status."""
        self._reader.result(PATIENCE)
        self._feeder.result(PATIENCE)
        return ends(self.process, PATIENCE)

    def wait_for_error(self, text: str) -> None:
        """Wait until it has printed something to its standard error."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.errors():
            assert time.monotonic() < deadline, f"{text!r} was not printed: {self.errors()}"
            self._pause()

    def _pause(self) -> None:
        """Wait a moment, or until its premature end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.02)
            pytest.fail(f"it ended too soon: {self.errors()}")

    def await_port(self, port: int) -> None:
        """Wait until the program listens on a port; raises as `dial`."""
        with contextlib.suppress(ConnectionResetError):  # it does, and wants nothing of a stranger
            self.dial(port).close()

    def dial(self, port: int) -> socket.socket:
        """Connect to a port as soon as the program listens there.

        Raises:
            AssertionError: it ended, or did not listen in time.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, f"nobody listens: {self.errors()}"
            self._pause()

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self.process.terminate()

    def kill(self) -> None:
        """End it now, and give its pipes back."""
        self.process.kill()
        ends(self.process, PATIENCE)
        with contextlib.suppress(AssertionError):
            self._reader.result(PATIENCE)
            self._feeder.result(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        """Kill it at the end of the block, whatever happens."""
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Kill it; if the block failed, say what the program had to say."""
        errors = self.errors() if error is not None and not self._errors.closed else ""
        self.kill()
        if errors:
            print(f"--- {self.process.args!r}\n{errors}")  # noqa: T201 - pytest shows it
