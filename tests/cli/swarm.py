"""A swarm of HTTPS clients in processes of their own, which count every request that fails.

``python -m tests.cli.swarm`` is one of these processes; `Swarm` starts several and adds up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from tests.doubles import descriptors, until

ROOT = Path(__file__).resolve().parents[2]
SMALL, BIG = "/index.html", "/big"
_BIG_EVERY = 12
_PATIENCE = 60.0


@dataclass
class Tally:
    """What came of it.

    Attributes:
        connections: whose handshake went well.
        requests: that were answered in full.
        bytes: of their bodies.
        told: connections that the server announced the end of (Connection: close).
        certificates: connections by the serial number of the server's certificate.
        refused: connections that were refused, or reset before they said anything, at the end.
        failures: local port and what happened, for each request or connection that failed.
    """

    connections: int = 0
    requests: int = 0
    bytes: int = 0
    told: int = 0
    certificates: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another's."""
        self.connections += other.connections
        self.requests += other.requests
        self.bytes += other.bytes
        self.told += other.told
        self.certificates += other.certificates
        self.refused += other.refused
        self.failures += other.failures


class Load(NamedTuple):
    """How much is asked for.

    Attributes:
        connections: in all, if none is told to end early.
        requests: for each of these.
        processes: of clients.
        at_once: connections at a time, in all.
        pause: seconds at most between two requests of a connection.
    """

    connections: int
    requests: int
    processes: int
    at_once: int
    pause: float = 0.05


# -- one process


class _Client:
    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._context = ssl.create_default_context(cafile=given.ca)
        self._expected = {
            SMALL: zlib.crc32(Path(given.folder, SMALL[1:]).read_bytes()),
            BIG: zlib.crc32(Path(given.folder, BIG[1:]).read_bytes()),
        }
        self._left = given.connections
        self._ending = False
        self.tally = Tally()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._end)
        await asyncio.gather(*(self._visit(n) for n in range(self._given.at_once)))

    def _end(self) -> None:
        """The server is about to stop: those whom it refuses have nothing more to do."""
        self._ending = True

    async def _visit(self, number: int) -> None:
        chance = random.Random(f"{self._given.seed} {number}")
        while self._left > 0:
            self._left -= 1
            wanted = self._given.requests
            while wanted > 0:
                done = await self._connect(wanted, chance)
                if done is None:
                    return
                wanted -= done
            _say(".")

    async def _connect(self, wanted: int, chance: random.Random) -> int | None:
        """Make requests over one connection; tells how many, or None if there can be no more."""
        port, done, asked = 0, 0, False
        try:
            async with asyncio.timeout(_PATIENCE):
                sock = socket.socket()
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._given.port))
                port = sock.getsockname()[1]
                reader, writer = await asyncio.open_connection(
                    sock=sock, ssl=self._context, server_hostname="localhost"
                )
                try:
                    certificate = writer.get_extra_info("peercert")
                    self.tally.certificates[certificate["serialNumber"]] += 1
                    self.tally.connections += 1
                    while done < wanted:
                        asked = True
                        goes_on = await self._request(reader, writer, chance)
                        done, asked = done + 1, False
                        if not goes_on:
                            self.tally.told += 1
                            break
                        await asyncio.sleep(chance.random() * self._given.pause)
                finally:
                    writer.close()
                    with contextlib.suppress(OSError, ssl.SSLError):
                        await writer.wait_closed()
        except (OSError, EOFError, ValueError) as exc:
            if self._ending and not done and not asked:
                self.tally.refused += 1
                return None
            self.tally.failures.append((port, f"{type(exc).__name__}: {exc}"))
            return done + 1
        return done

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random
    ) -> bool:
        path = BIG if chance.randrange(_BIG_EVERY) == 0 else SMALL
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith("http/1.1 200 "):
            raise ValueError(head.splitlines()[0])
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = await reader.readexactly(size)
        if zlib.crc32(body) != self._expected[path]:
            raise ValueError(f"{size} wrong bytes")
        self.tally.requests += 1
        self.tally.bytes += size
        return "connection: close" not in head


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Be one process of the swarm: a line for each connection that is done, then the tally."""
    parser = argparse.ArgumentParser()
    for name in ("port", "connections", "requests", "at-once", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("ca", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pause", type=float, required=True)
    client = _Client(parser.parse_args())
    asyncio.run(client.run())
    _say(json.dumps(vars(client.tally)))


# -- all of them


class Swarm:
    """Several such processes."""

    def __init__(self, port: int, ca: Path, folder: Path, load: Load) -> None:
        """Start them.

        Args:
            port: of 127.0.0.1.
            ca: PEM anchors.
            folder: what is served there.
            load: how much to ask for.
        """
        self._done = 0
        self._lock = threading.Lock()
        self._last: dict[int, str] = {}
        self.processes = []
        for number in range(load.processes):
            words = {
                "port": port,
                "ca": ca,
                "folder": folder,
                "connections": load.connections // load.processes,
                "requests": load.requests,
                "at-once": max(load.at_once // load.processes, 1),
                "pause": load.pause,
                "seed": number,
            }
            given = [word for name, value in words.items() for word in (f"--{name}", str(value))]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.cli.swarm", *given],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        self._threads = [
            threading.Thread(target=self._read, args=(process,), daemon=True)
            for process in self.processes
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        """Start them."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them, should they still run."""
        for process in self.processes:
            process.kill()
        for thread in self._threads:
            thread.join()
        for process in self.processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            if line == ".\n":
                with self._lock:
                    self._done += 1
            else:
                self._last[process.pid] = line

    @property
    def done(self) -> int:
        """How many connections' worth of requests have been made."""
        return self._done

    def wait_for(self, done: int, timeout: float = 120) -> None:
        """Wait until that many are."""
        until(lambda: self._done >= done or not self._runs(), timeout)

    def _runs(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def end(self) -> None:
        """Announce to them that the server is about to stop."""
        for process in self.processes:
            process.send_signal(signal.SIGUSR1)

    def tally(self, timeout: float = 120) -> Tally:
        """Wait for their end, and add up."""
        total = Tally()
        for process, thread in zip(self.processes, self._threads, strict=True):
            process.wait(timeout)
            thread.join()
            given = json.loads(self._last[process.pid])
            given["certificates"] = Counter(given["certificates"])
            given["failures"] = [tuple(each) for each in given["failures"]]
            total.add(Tally(**given))
        return total


def kill_worker(pid: int) -> set[int]:
    """Kill a worker; return its clients' ports, whose connections are lost with it."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    ports = _peers(pid)
    os.kill(pid, signal.SIGKILL)
    return ports


def _peers(pid: int) -> set[int]:
    """Return the remote ports of a process's TCP connections."""
    inodes = set()
    for each in descriptors(pid):
        name = each.partition(" ")[2]
        if name.startswith("socket:["):
            inodes.add(name.removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].rpartition(":")[2], 16) for row in rows if row[9] in inodes} - {0}


if __name__ == "__main__":
    main()
