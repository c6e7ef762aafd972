"""In the guest: tlsify serve, connections to it through stdin and stdout, and what can be counted.

The argument is JSON: folder, cert, key.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.tunnel import Kind, Tunnel
from tests.doubles import until
from tests.ports import free_port

_STAT = Path("/proc/net/tls_stat")


def _counters() -> dict[str, int]:
    return {name: int(number) for name, number in map(str.split, _STAT.read_text().splitlines())}


def _listens(port: int) -> bool:
    # Asking it would be a connection of its own.
    state = f"0100007F:{port:04X} 00000000:0000 0A"
    return state in Path("/proc/net/tcp").read_text("ascii")


async def _carry(port: int, traced: Path) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, sys.stdout.buffer
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    working: set[asyncio.Task[None]] = set()

    async def answer() -> None:
        report = await asyncio.to_thread(_report, traced)
        tunnel.send(Kind.NOTE, 0, json.dumps(report).encode())

    def note(_: bytes) -> None:
        task = asyncio.ensure_future(answer())
        working.add(task)
        task.add_done_callback(working.discard)

    tunnel = Tunnel(reader, writer, note, port)
    tunnel.send(Kind.NOTE, 0, b"{}")
    await tunnel.run()


def _report(traced: Path) -> dict[str, Any]:
    """Return what there is to see from outside of the server."""
    words = [sys.executable, "-m", "tlsify", "status", "--json"]
    status = subprocess.run(words, check=True, capture_output=True).stdout
    returned = re.findall(r"sendfile\(.* = (\d+)$", traced.read_text(), re.MULTILINE)
    sizes = [int(size) for size in returned]
    return {"status": json.loads(status), "sendfiles": len(sizes), "sent": sum(sizes)}


def main() -> None:
    """Serve until stdin ends."""
    given = json.loads(sys.argv[1])
    os.environ["TLSIFY_ROSTER"] = tempfile.mkdtemp(prefix="roster-")
    port, traced = free_port(), Path(tempfile.mkdtemp()) / "trace"
    trace = f"strace -f --seccomp-bpf -qq -e trace=sendfile -o {traced}".split()
    serve = f"-m tlsify --ktls=require serve --listen 127.0.0.1:{port}".split()
    pair = ["--cert", given["cert"], "--key", given["key"]]
    with subprocess.Popen(
        [*trace, sys.executable, *serve, *pair, given["folder"]],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
    ) as process:
        try:
            until(lambda: _listens(port) or process.poll() is not None, 60)
            asyncio.run(_carry(port, traced))
        finally:
            # strace would wait for the server, and the server for whoever is still connected.
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
