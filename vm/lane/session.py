"""One call's conversation with a guest: its request, its streams, its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from guest.agent import CHUNK, HEADER
from guest.boot import READY

from lane import bytecode
from lane.cache import LaneError

AGENT = Path(__file__).resolve().parents[1] / "guest" / "agent.py"
TIMED_OUT = 124
CONSOLE_KEPT = 64 * 1024
CONSOLE_SHOWN_LINES = 40

MS_RDONLY = 1
MS_BIND = 4096


class TimedOutError(Exception):
    """The command had not ended when its time was over."""


@dataclass(frozen=True)
class Call:
    """What one call asks of a guest."""

    argv: tuple[str, ...]
    cwd: Path
    environment: dict[str, str]
    mounts: tuple[Path, ...]
    scratch: Path
    timeout: float


@dataclass
class Guest:
    """A guest's process and the two sockets to it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    console: socket.socket
    log: bytearray = field(default_factory=bytearray)

    def read_console(self) -> None:
        """Keep what the kernel has printed."""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.console.recv(65536, socket.MSG_DONTWAIT):
                self.log += data
                del self.log[:-CONSOLE_KEPT]

    def lost(self) -> LaneError:
        """Return the error for a guest that ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        self.read_console()
        text = self.log.decode(errors="replace").replace("\r", "")
        # What a kernel says first when it fails tells more than how it ends.
        start = re.search(r".*(BUG:|Oops:|Kernel panic|general protection)", text)
        lines = (
            text[start.start() :].splitlines()
            if start
            else text.splitlines()[-CONSOLE_SHOWN_LINES:]
        )
        tail = "\n".join(lines[:CONSOLE_SHOWN_LINES])
        what = "the guest's kernel panicked" if "Kernel panic" in text else "the guest was lost"
        return LaneError(what, f"the last lines of its console:\n{tail}")

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for boot.py's word that the guest is up."""
        deadline = time.monotonic() + seconds
        word = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            selector.register(self.console, selectors.EVENT_READ)
            while READY not in word:
                if time.monotonic() > deadline:
                    self.log += b"\n(not up in time)"
                    raise self.lost()
                for key, _ in selector.select(1):
                    if key.fileobj is self.console:
                        self.read_console()
                    else:
                        data = self.channel.recv(4096)
                        if not data:
                            raise self.lost()
                        word += data
                if self.process.poll() is not None:
                    raise self.lost()


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> dict[str, object]:
    """Return a request to mount something."""
    return {"source": source, "target": target, "kind": kind, "flags": flags, "data": data}


def converse(guest: Guest, call: Call, mounts: list[dict[str, object]], scratch: str) -> int:
    """Have the guest run the command and return its exit status."""
    request = {
        "argv": call.argv,
        "cwd": str(call.cwd),
        "env": call.environment,
        "mounts": mounts,
        "scratch": scratch,
        "time": time.time(),
        "entropy": os.urandom(64).hex(),
    }
    # As byte code: under TCG to compile it takes as long as to run it.
    agent = bytecode.compiled([AGENT])[AGENT].read_bytes()[bytecode.HEADER_SIZE :]
    body = json.dumps(request).encode()
    talk = _Conversation(guest, call)
    talk.outgoing += b"%08x" % len(agent) + agent + HEADER.pack(b"r", len(body)) + body
    try:
        return talk.run()
    finally:
        talk.close()


class _Conversation:
    def __init__(self, guest: Guest, call: Call) -> None:
        self.guest = guest
        self.call = call
        self.outgoing = bytearray()
        self.incoming = bytearray()
        self.status: int | None = None
        self.tar: subprocess.Popen[bytes] | None = None
        self.input_open = True
        self.selector = selectors.PollSelector()

    def run(self) -> int:
        deadline = time.monotonic() + self.call.timeout
        channel = self.guest.channel
        channel.settimeout(0)
        self.selector.register(self.guest.console, selectors.EVENT_READ)
        self.selector.register(channel, selectors.EVENT_READ)
        while self.status is None:
            self._choose_events()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOutError(f"the command had not ended after {self.call.timeout:g} s")
            for key, events in self.selector.select(min(left, 1)):
                if key.fileobj is self.guest.console:
                    self.guest.read_console()
                elif key.fileobj is not channel:
                    self._read_input()
                else:
                    if events & selectors.EVENT_WRITE:
                        del self.outgoing[: channel.send(self.outgoing)]
                    if events & selectors.EVENT_READ:
                        self._read_channel()
            if self.status is None and self.guest.process.poll() is not None:
                self._read_channel()
                if self.status is None:
                    raise self.guest.lost()
        return self.status

    def _choose_events(self) -> None:
        """Read input only when what was read before is with the guest."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        self.selector.modify(self.guest.channel, events)
        registered = 0 in self.selector.get_map()
        if self.input_open and not self.outgoing and not registered:
            self.selector.register(0, selectors.EVENT_READ)
        elif registered and (self.outgoing or not self.input_open):
            self.selector.unregister(0)

    def _read_input(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except OSError:
            data = b""
        self.input_open = bool(data)
        self.outgoing += HEADER.pack(b"i", len(data)) + data

    def _read_channel(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.guest.channel.recv(1 << 18):
                self.incoming += data
                self._take_frames()

    def _take_frames(self) -> None:
        at = 0
        while len(self.incoming) - at >= HEADER.size:
            kind, size = HEADER.unpack_from(self.incoming, at)
            end = at + HEADER.size + size
            if len(self.incoming) < end:
                break
            self._take(kind, bytes(self.incoming[at + HEADER.size : end]))
            at = end
        del self.incoming[:at]

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == b"o":
            _write(sys.stdout.buffer, payload)
        elif kind == b"e":
            _write(sys.stderr.buffer, payload)
        elif kind == b"s":
            self._unpack_scratch(payload)
        elif kind == b"x":
            self.status = int(payload)
        elif kind == b"f":
            raise LaneError(
                f"the guest cannot run this: {payload.decode()}", "see vm/README.md, Limits"
            )

    def _unpack_scratch(self, payload: bytes) -> None:
        if not self.tar:
            self.call.scratch.mkdir(parents=True, exist_ok=True)
            words = ["tar", "-x", "--no-same-owner", "-C", str(self.call.scratch)]
            self.tar = subprocess.Popen(words, stdin=subprocess.PIPE)
        if self.tar.stdin:
            self.tar.stdin.write(payload)

    def close(self) -> None:
        self.selector.close()
        if self.tar and self.tar.stdin:
            self.tar.stdin.close()
            if self.tar.wait():
                raise LaneError(
                    "cannot unpack what the command left in scratch", "is the disk full?"
                )


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)
    stream.flush()
