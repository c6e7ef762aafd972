"""What process 1 of the guest does for one call; the host sends this file into a waiting boot.py.

Both directions of the channel carry frames: one letter that says what it is, a length, a payload.
Host to guest:  r request (JSON), i standard input (an empty one ends it).
Guest to host:  o and e standard output and error, s scratch (a tar), x exit status, f failure.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import marshal
import os
import selectors
import signal
import socket
import struct
import time
from typing import Any

HEADER = struct.Struct(">cI")
CHUNK = 32 * 1024 - HEADER.size

RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
COMMAND_NOT_FOUND = 127
CANNOT_RUN = 126


def main(channel: int, waiting: tuple[int, socket.socket] | None) -> None:
    """Serve one request; the host ends the guest when it has the exit status.

    Args:
        channel: leads to the host.
        waiting: process id of an interpreter that waits to become pytest, and the way to it.
    """
    try:
        _, payload = receive(channel)
        request = json.loads(payload)
        time.clock_settime(time.CLOCK_REALTIME, request["time"])
        reseed(bytes.fromhex(request["entropy"]))
        for step in request["mounts"]:
            mount(**step)
        status = Command(channel, request, waiting).run()
        if request["scratch"]:
            send_scratch(channel, request["scratch"])
        send(channel, b"x", str(status).encode())
    except Exception as error:  # noqa: BLE001 - whatever it is, the host must hear of it
        send(channel, b"f", f"{type(error).__name__}: {error}".encode())
    while True:
        signal.pause()


def reseed(entropy: bytes) -> None:
    """Give a restored kernel random numbers of its own: the snapshot's would repeat."""
    device = os.open("/dev/urandom", os.O_WRONLY)
    bits = len(entropy) * 8
    fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", bits, len(entropy)) + entropy)
    fcntl.ioctl(device, RNDRESEEDCRNG)
    os.close(device)


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """Mount a file system, making its mount point."""
    os.makedirs(target, exist_ok=True)  # noqa: PTH103 - pathlib is not in the snapshot
    libc = ctypes.CDLL(None, use_errno=True)
    words = (source.encode(), target.encode(), kind.encode())
    if libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None):
        raise OSError(ctypes.get_errno(), f"cannot mount {source}", target)


class Command:
    """The command and its standard streams, which pass through this process."""

    def __init__(
        self,
        channel: int,
        request: dict[str, Any],
        waiting: tuple[int, socket.socket] | None,
    ) -> None:
        """Start the command."""
        self.channel = channel
        self.status: int | None = None
        self.waiting = b""
        self.selector = selectors.DefaultSelector()
        child_in, self.stdin = os.pipe()
        self.stdout, child_out = os.pipe()
        self.stderr, child_err = os.pipe()
        self.ended, wakeup = os.pipe()
        for end in (self.stdin, self.stdout, self.stderr, self.ended, wakeup):
            os.set_blocking(end, False)
        # Process 1 inherits every orphan, so it reaps all that end, not only the command.
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        streams = (child_in, child_out, child_err)
        if waiting and request["argv"][0] == "pytest":
            self.child = become(waiting, request, streams)
        else:
            self.child = start(request, streams)
        for end in (child_in, child_out, child_err):
            os.close(end)

    def run(self) -> int:
        """Pass the streams on until the command has ended; return its exit status."""
        for source, action in (
            (self.channel, self.take_input),
            (self.stdout, self.send_output),
            (self.stderr, self.send_errors),
            (self.ended, self.reap),
        ):
            self.selector.register(source, selectors.EVENT_READ, action)
        while self.status is None:
            for key, _ in self.selector.select():
                key.data()
        for send_rest in (self.send_output, self.send_errors):
            while send_rest():
                pass
        return self.status

    def take_input(self) -> None:
        """Take input from the host, and no more of it until the command has read this."""
        _, self.waiting = receive(self.channel)
        self.selector.unregister(self.channel)
        if self.waiting:
            self.selector.register(self.stdin, selectors.EVENT_WRITE, self.pass_input)
        else:
            os.close(self.stdin)

    def pass_input(self) -> None:
        """Give the command what came from the host."""
        try:
            self.waiting = self.waiting[os.write(self.stdin, self.waiting) :]
        except BrokenPipeError:
            self.selector.unregister(self.stdin)
            return
        if not self.waiting:
            self.selector.unregister(self.stdin)
            self.selector.register(self.channel, selectors.EVENT_READ, self.take_input)

    def send_output(self) -> bool:
        """Send what is on standard output; return whether there may be more."""
        return self.forward(self.stdout, b"o")

    def send_errors(self) -> bool:
        """Send what is on standard error; return whether there may be more."""
        return self.forward(self.stderr, b"e")

    def forward(self, source: int, kind: bytes) -> bool:
        """Send what the command has written."""
        try:
            data = os.read(source, CHUNK)
        except BlockingIOError:
            return False
        if data:
            send(self.channel, kind, data)
        elif source in self.selector.get_map():
            self.selector.unregister(source)
        return bool(data)

    def reap(self) -> None:
        """Collect every process that has ended, and notice if the command is among them."""
        os.read(self.ended, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code


def start(request: dict[str, Any], streams: tuple[int, int, int]) -> int:
    """Start the command in a session of its own and return its process id."""
    child = os.fork()
    if child:
        return child
    name = request["argv"][0]
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.setsid()
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        os.chdir(request["cwd"])
        os.execvpe(name, request["argv"], request["env"])  # noqa: S606 - what it is for
    except FileNotFoundError:
        os.write(2, f"vm/run: {name}: command not found\n".encode())
        os._exit(COMMAND_NOT_FOUND)
    except OSError as error:
        os.write(2, f"vm/run: {name}: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT_RUN)


# What the waiting interpreter does then; it has imported already what this needs.
BECOME = """
size, = struct.unpack("I", channel.recv(4))
text, descriptors, *_ = socket.recv_fds(channel, size, 3)
channel.detach()  # its number is standard input's
import json
request = json.loads(text)
for number, stream in enumerate(descriptors):
    os.dup2(stream, number)
    os.close(stream)
os.setsid()
os.chdir(request["cwd"])
os.environ.clear()
os.environ.update(request["env"])
sys.path[0:1] = filter(None, request["env"].get("PYTHONPATH", "").split(":"))
sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
# pytest would rewrite its plugins' asserts, and warns that it comes too late for that.
sys.argv = ["pytest", "-W", "ignore:Module already imported", *request["argv"][1:]]
random.seed()
runpy.run_module("pytest", run_name="__main__", alter_sys=True)
"""


def become(
    waiting: tuple[int, socket.socket], request: dict[str, Any], streams: tuple[int, ...]
) -> int:
    """Have the waiting interpreter become pytest; return its process id."""
    child, way = waiting
    with way:
        way.send(marshal.dumps(compile(BECOME, "BECOME", "exec")))
        text = json.dumps(request).encode()
        way.send(struct.pack("I", len(text)))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))
        way.sendmsg([text], [rights])
    return child


def send_scratch(channel: int, folder: str) -> None:
    """Send what the command has left in the scratch folder."""
    import tarfile  # noqa: PLC0415 - half of the quick lane's start-up time, seldom needed

    class Frames:
        """A file that writes frames."""

        def write(self, data: bytes) -> int:
            for start in range(0, len(data), CHUNK):
                send(channel, b"s", data[start : start + CHUNK])
            return len(data)

    if os.listdir(folder):  # noqa: PTH208 - pathlib is not in the snapshot
        with tarfile.open(fileobj=Frames(), mode="w|") as archive:  # type: ignore[call-overload]
            archive.add(folder, arcname=".")


def send(channel: int, kind: bytes, payload: bytes) -> None:
    """Write one frame."""
    data = memoryview(HEADER.pack(kind, len(payload)) + payload)
    while data:
        data = data[os.write(channel, data) :]


def receive(channel: int) -> tuple[bytes, bytes]:
    """Read one frame."""
    kind, size = HEADER.unpack(read_exactly(channel, HEADER.size))
    return kind, read_exactly(channel, size)


def read_exactly(channel: int, size: int) -> bytes:
    """Read that many bytes."""
    data = b""
    while len(data) < size:
        data += os.read(channel, size - len(data))
    return data
