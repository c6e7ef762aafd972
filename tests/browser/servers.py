"""`tlsify serve` for a browser: here, on the relay, or in a guest, whose kernel has kTLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

from tests.browser.tunnel import Kind, Tunnel
from tests.doubles import until
from tests.ports import free_port
from tlsify.status.census import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
# A guest may have to be booted first; seconds.
_PATIENCE = 400.0
_PARTING = 30.0


class Here:
    """The server as a process of this host.

    Attributes:
        port: of 127.0.0.1.
    """

    def __init__(self, folder: Path, cert: Path, key: Path) -> None:
        """Prepare to serve a folder."""
        self.port = free_port()
        self._stack = contextlib.ExitStack()
        self._words = ["--ktls=off", "serve", "--listen", f"127.0.0.1:{self.port}"]
        self._words += ["--workers", "2", "--cert", str(cert), "--key", str(key), str(folder)]
        self._environment = dict(os.environ)

    def __enter__(self) -> Self:
        """Start it."""
        roster = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tlsify-"))
        self._environment[VARIABLE] = f"{roster}/roster"
        process = self._stack.enter_context(self._start(*self._words))
        self._stack.callback(process.terminate)
        assert process.stdout is not None
        assert b"serving" in process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._stack.close()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tlsify", *words], stdout=subprocess.PIPE, env=self._environment
        )

    def report(self) -> dict[str, Any]:
        """Return what `tlsify status` does."""
        with self._start("status", "--json") as process:
            assert process.stdout is not None
            return {"status": json.load(process.stdout)}


class There:
    """The server in a guest, with a port of this host that leads to it.

    Attributes:
        port: of 127.0.0.1.
    """

    def __init__(self, folder: Path, cert: Path, key: Path) -> None:
        """Prepare to serve a folder; all of it is copied to the guest."""
        self.port = 0
        given = {"folder": str(folder), "cert": str(cert), "key": str(key)}
        mounts = [f"--mount={each}" for each in dict.fromkeys((folder, cert.parent))]
        command = ["python", "-m", "tests.browser.guest", json.dumps(given)]
        self._words = [str(ROOT / "vm/run"), "--kernel", "latest", *mounts, "--", *command]
        self._loop = asyncio.new_event_loop()
        self._notes: list[dict[str, Any]] = []
        self._tunnel: Tunnel | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Start the guest."""
        self._thread.start()
        until(lambda: self._notes or not self._thread.is_alive(), _PATIENCE)
        assert self._notes, "the guest has ended"
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._carry())

    async def _carry(self) -> None:
        pipe = asyncio.subprocess.PIPE
        guest = await asyncio.create_subprocess_exec(
            *self._words, cwd=ROOT, stdin=pipe, stdout=pipe
        )
        assert guest.stdin is not None
        assert guest.stdout is not None
        self._tunnel = Tunnel(
            guest.stdout, guest.stdin, lambda note: self._notes.append(json.loads(note))
        )
        server = await asyncio.start_server(self._tunnel.open, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        carrying = asyncio.ensure_future(self._tunnel.run())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((carrying, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.close()
        for each in (carrying, stopping):
            each.cancel()
        await asyncio.gather(carrying, stopping, return_exceptions=True)
        guest.stdin.close()
        with contextlib.suppress(ConnectionError):
            await guest.stdin.wait_closed()
        try:
            async with asyncio.timeout(_PARTING):
                await guest.wait()
        except TimeoutError:
            guest.terminate()
            await guest.wait()

    def report(self) -> dict[str, Any]:
        """Return what `tlsify status` does there, and how often and what sendfile has sent."""
        assert self._tunnel is not None
        before = len(self._notes)
        self._loop.call_soon_threadsafe(self._tunnel.send, Kind.NOTE)
        until(lambda: len(self._notes) > before or not self._thread.is_alive(), 60)
        return self._notes[-1]
