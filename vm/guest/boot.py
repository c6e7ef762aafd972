"""Process 1 of the guest: receives its program from the host and becomes it.

A snapshot holds this program waiting, so everything that may change from call to call comes from
the host: see agent.py.
"""

import importlib
import marshal
import os
import subprocess
import sys
import tty
from pathlib import Path

UML_CHANNEL = "/dev/ttyS0"
READY = b"ready\n"
# What a snapshot holds in memory need not be read and unpacked again by any later call.
AGENT_MODULES = ("ctypes", "fcntl", "json", "selectors", "signal", "struct", "tarfile", "time")
WARM = """
import asyncio, sqlite3
import OpenSSL.SSL, aiohttp, psutil, pyroute2, pytest, service_identity, trustme
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


def main() -> None:
    """Say that the guest is up, then run what the host sends."""
    channel = os.open(find_channel(), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if sys.argv[1] == "uml":
        tty.setraw(channel)
    else:
        for name in AGENT_MODULES:
            importlib.import_module(name)
        subprocess.run(["/opt/tlsify-env/bin/python", "-c", WARM], check=False)
    os.write(channel, READY)
    size = int(read_exactly(channel, 8), 16)
    agent: dict[str, object] = {"__name__": "agent"}
    exec(marshal.loads(read_exactly(channel, size)), agent)  # noqa: S102, S302
    agent["main"](channel)  # type: ignore[operator]


if __name__ == "__main__":
    main()
