"""The recipes of docs/adopters.md, and a place where they run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.interop.programs import PATIENCE, Program
from tlsify.ktls import probe
from tlsify.ktls.diag import tls_stat

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import trustme

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs/adopters.md"
RELAY, KERNEL = "--ktls=off", "--ktls=require"
_BLOCK = re.compile(r"^```(?:sh|text) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@cache
def recipes() -> dict[str, str]:
    """Return the page's blocks by their names."""
    found = _BLOCK.findall(PAGE.read_text())
    assert len(found) == len(dict(found)) > 0
    return dict(found)


def recipe(name: str, instead: Mapping[str, object]) -> str:
    """Return a block of the page, with the tests' own hosts, ports and paths in it.

    Args:
        name: the block's.
        instead: what to write for what stands there.
    """
    text = recipes()[name]
    for theirs, ours in instead.items():
        assert theirs in text, f"{name} does not say {theirs}"
        text = text.replace(theirs, str(ours))
    return text


class Place:
    """A folder to run recipes in, whose ``tlsify`` is ours and trusts the tests' authority.

    Attributes:
        folder: the working directory, and home.
        carrier: who is to protect the records: an option for the command.
    """

    def __init__(self, folder: Path, carrier: str, authority: Path) -> None:
        """Make the command."""
        self.folder = folder
        self.carrier = carrier
        self._authority = authority
        command = f'#!/bin/sh\nexec "{sys.executable}" -m tlsify {carrier} "$@"\n'
        (folder / "bin").mkdir()
        self._write_program("bin/tlsify", command)

    def environment(self) -> dict[str, str]:
        """Return what programs find in their environment, besides what the tests have."""
        return {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}:/usr/sbin",
            "HOME": str(self.folder),
            "CAFILE": str(self._authority),
            "PYTHONPATH": str(PROJECT),
            "PYTHONWARNINGS": "always::ResourceWarning",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    def write(self, name: str, text: str) -> None:
        """Write a file that is nobody else's."""
        path = self.folder / name
        path.touch(0o600)
        path.write_text(text)

    def write_script(self, name: str) -> None:
        """Write a program that the page gives under the same name."""
        self._write_program(name, recipes()[name])

    def certify(self, leaf: trustme.LeafCert) -> None:
        """Save a certificate and its key where the page has them."""
        leaf.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")
        leaf.private_key_pem.write_to_path(self.folder / "key.pem")
        (self.folder / "key.pem").chmod(0o600)

    def _write_program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o700)

    def run(self, commands: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
        """Run a recipe to its end; whatever it prints is in ``stdout``."""
        return subprocess.run(
            ["sh", "-e", "-c", commands],
            cwd=self.folder / folder,
            env=os.environ | self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def succeed(self, commands: str, folder: str = ".") -> str:
        """Run a recipe to its successful end, and give what it printed."""
        done = self.run(commands, folder)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, commands: str) -> Program:
        """Start a recipe that goes on until it is ended: one command, or the last one by exec."""
        variables = [f"{name}={value}" for name, value in self.environment().items()]
        words = ["env", f"--chdir={self.folder}", *variables, "sh", "-c", commands]
        return Program(words)

    @contextmanager
    def serving(self, commands: str, said: str = "") -> Iterator[int]:
        """Run a ``tlsify listen`` recipe, which must end well when asked to; return its port.

        Args:
            commands: the recipe.
            said: pattern for all that it says on stderr meanwhile; by default nothing.
        """
        with self.start(f"exec {commands}") as server:
            ready = server.wait_for(rb"listening on 127\.0\.0\.1:(\d+)\n")
            yield int(ready[1])
            server.terminate()
            assert server.status() == 0, server.errors()
            errors = server.errors()
            assert re.fullmatch(said, errors, re.DOTALL), errors

    @contextmanager
    def carried(self, connections: int, ends: int = 2) -> Iterator[None]:
        """Expect that the kernel takes keys for as many connections as the block makes, or none.

        Each client's process tries the kernel once, with keys for connections to itself.

        Args:
            connections: how many clients of ours connect.
            ends: at how many ends of a connection we are.
        """
        tried = _keys_tried() if self.carrier == KERNEL else {"TlsTxSw": 0, "TlsRxSw": 0}
        before = tls_stat()
        yield
        after = tls_stat()
        taken = {name: after.get(name, 0) - before.get(name, 0) for name in tried}
        ours = ends * (self.carrier == KERNEL)
        assert taken["TlsTxSw"] == connections * (tried["TlsTxSw"] + ours)
        # Old kernels are tried for how they tell of partial records, if one comes: a key more.
        assert taken["TlsRxSw"] >= connections * (tried["TlsRxSw"] + ours)
        assert after.get("TlsDecryptError") == before.get("TlsDecryptError")


@cache
def _keys_tried() -> dict[str, int]:
    """Return how many keys the kernel is given to find out what it can do."""
    before = tls_stat()
    probe.capabilities.__wrapped__()
    after = tls_stat()
    return {name: after[name] - before[name] for name in ("TlsTxSw", "TlsRxSw")}
