"""Process 1 of the guest: receives its program from the host and becomes it.

A snapshot holds this program waiting, so everything that may change from call to call comes from
the host: see agent.py.
"""

import importlib
import marshal
import os
import socket
import subprocess
import sys
import tty
from pathlib import Path

UML_CHANNEL = "/dev/ttyS0"
READY = b"ready\n"
# What a snapshot holds in memory need not be read and unpacked again by any later call.
AGENT_MODULES = (
    "array",
    "ctypes",
    "fcntl",
    "json",
    "selectors",
    "signal",
    "socket",
    "struct",
    "time",
)
# An interpreter that has imported, when the snapshot is made, what every pytest imports, and then
# waits to be told what to do: see agent.py. Under TCG these imports take half a minute.
WAITING = """
import array, asyncio, marshal, os, random, runpy, socket, sqlite3, struct, sys, tempfile
import http.client, http.server, multiprocessing, pickle, ssl, tlslite.api, urllib.request, uvloop
import OpenSSL.SSL, aiohttp, hypothesis.strategies, psutil, pyroute2, pytest
import trustme
channel = socket.socket(fileno=0)
channel.send(b"ready")
exec(marshal.loads(channel.recv(1 << 20)))
"""


def find_channel() -> str:
    """Return the device that leads to the host."""
    if sys.argv[1] == "uml":
        return UML_CHANNEL
    for port in Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").read_text().strip() == "tlsify":
            return f"/dev/{port.name}"
    raise SystemExit("the guest has no port to the host")


def read_exactly(channel: int, size: int) -> bytes:
    """Read that many bytes."""
    data = b""
    while len(data) < size:
        data += os.read(channel, size - len(data))
    return data


def prepare_python() -> tuple[int, socket.socket]:
    """Start the waiting interpreter; gives its process id and the way to it, once it waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = ["/opt/tlsify-env/bin/python", "-c", WAITING]
    child = subprocess.Popen(words, stdin=theirs.fileno(), env={"PATH": "/usr/bin"})
    theirs.close()
    ours.recv(5)
    return child.pid, ours


def main() -> None:
    """Say that the guest is up, then run what the host sends."""
    channel = os.open(find_channel(), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    waiting = None
    if sys.argv[1] == "uml":
        tty.setraw(channel)
    else:
        for name in AGENT_MODULES:
            importlib.import_module(name)
        waiting = prepare_python()
    os.write(channel, READY)
    size = int(read_exactly(channel, 8), 16)
    agent: dict[str, object] = {"__name__": "agent"}
    exec(marshal.loads(read_exactly(channel, size)), agent)  # noqa: S102, S302
    agent["main"](channel, waiting)  # type: ignore[operator]


if __name__ == "__main__":
    main()
