"""A server of others under wrap, and what it has shown."""

from __future__ import annotations

import json
import os
import platform
import random
import re
import signal
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tests import provision
from tests.cli.forked import Forked
from tests.cli.harness import PATIENCE
from tests.doubles import until
from tests.ports import free_port
from tests.wrap.servers.table import Ground, Server
from tests.wrap.servers.talks import TALKS, Talk
from tests.wrap.wrapped import RELAY
from tlsify.wrap.holders import descendants

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Pki

# Where rows of docs/integrations.md are collected, if anybody wants them.
EVIDENCE = os.environ.get("TLSIFY_EVIDENCE")
_CGI = """#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
head -c $CONTENT_LENGTH | sha256sum
"""
_RELEASE = re.compile(r"\d+(?:\.\d+)+")
_TOLD = 2000
# What a program says that has met a record which is not data.
_SIGNS = re.compile(r".*(?:\(5:|Errno 5\b|EIO|Input/output|\[alert\]|Traceback).*")


class Served(Forked):
    """A running one.

    Attributes:
        ground: where it is.
        talk: what its clients say.
    """

    def __init__(self, pki: Pki, place: Path, server: Server, megabytes: int, carrier: str) -> None:
        """Start it, and wait until it listens.

        Args:
            pki: with its certificate.
            place: where it has its files; other users may enter it.
            server: which.
            megabytes: size of the file that it serves.
            carrier: option of the command.
        """
        self.server = server
        program = server.program
        found = program if os.path.isabs(program) else provision.find_server(program)
        self.ground = Ground(found, place / "root", place, free_port())
        _furnish(self.ground.root, megabytes)
        os.environ["SERVED"] = str(self.ground.root)
        self.talk: Talk = TALKS[server.talk](self.ground.root, server.upload)
        credentials = ("--cert", pki.good.certificate, "--key", pki.good.key)
        words = ("--", found, *server.words(self.ground))
        super().__init__(carrier, "wrap", *credentials, *words)
        try:
            until(lambda: "TLS on" in self.said(), PATIENCE)
        except AssertionError as error:
            self.__exit__(None, error, None)
            raise

    def __exit__(self, *details: object) -> None:
        """Leave nothing behind; if the block failed, tell what the server had to say."""
        _, error, _ = details
        if isinstance(error, Exception):
            error.add_note(self._complaints()[-_TOLD:])
        super().__exit__(*details)

    def _complaints(self) -> str:
        log = self.ground.place / "log"
        return self.said() + (log.read_text() if log.exists() else "")

    def release(self) -> str:
        """Return its version."""
        if isinstance(self.server.release, str):
            return version(self.server.release)
        words = [self.ground.program, *self.server.release]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        found = _RELEASE.search(done.stdout + done.stderr)
        assert found is not None, done
        return found[0]

    def reload(self) -> None:
        """Have it replace its processes; one of them does it within itself, and says so."""
        before = set(descendants(self._pid))
        self.signal(self.server.reload)
        until(lambda: set(descendants(self._pid)) - before or "graceful" in self._complaints())

    def keep(self, name: str, carrier: str, **shown: object) -> None:
        """Write down what it has shown, if somebody collects that."""
        if EVIDENCE is not None:
            is_relay = carrier == RELAY
            where = {"guest": "relay" if is_relay else provision.GUEST}
            where |= {"kernel": platform.release()}
            row = {"wrapped": name, "release": self.release(), **where, **shown}
            with Path(EVIDENCE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def check_log(self) -> None:
        """Check that it has complained of no record."""
        assert not (signs := _SIGNS.findall(self._complaints())), signs

    def stop(self) -> None:
        """End it in good order; nothing of it is left."""
        self.signal(self.server.end)
        status = self.end()
        assert status == self.server.status, (status, self.said())

    def sendfile_calls(self, work: Callable[[], object]) -> int:
        """Return how many calls of sendfile it makes meanwhile."""
        log = self.ground.place / "calls"
        words = [provision.find("strace"), "-f", "-qq", "-e", "trace=sendfile", "-o", str(log)]
        words += [f"--attach={pid}" for pid in descendants(self._pid)]
        with subprocess.Popen(words, stderr=subprocess.PIPE) as tracer:
            until(lambda: all(map(_is_traced, descendants(self._pid))), PATIENCE)
            work()
            tracer.send_signal(signal.SIGINT)
        return sum("sendfile(" in line for line in log.read_text().splitlines())


def _is_traced(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    return True


def _furnish(root: Path, megabytes: int) -> None:
    """Make the folder that is served."""
    (root / "cgi-bin").mkdir(parents=True)
    root.chmod(0o777)  # some servers become another user, who writes uploads
    (root / "page").write_bytes(random.Random(1).randbytes(1000))
    (root / "file").write_bytes(random.Random(2).randbytes(2**20) * megabytes)
    (root / "cgi-bin" / "upload").write_text(_CGI)
    (root / "cgi-bin" / "upload").chmod(0o755)
