"""Use an installed tlsify, of which the argument is the prefix: the command, its files, its pages.

It needs nothing but that: scripts/release runs it with the interpreter of each installation.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from importlib.resources import files
from pathlib import Path

FILES = (
    "lib/systemd/system/tlsify@.service",
    "lib/systemd/system/tlsify@.socket",
    "share/bash-completion/completions/tlsify",
    "share/fish/vendor_completions.d/tlsify.fish",
    "share/man/man1/tlsify.1*",
    "share/man/man1/tlsify-serve.1*",
    "share/tlsify/fail2ban",
    "share/zsh/*/_tlsify",
)


def main(prefix: Path) -> None:
    """Raise an error if anything is missing."""
    command = str(prefix / "bin/tlsify")
    version = metadata.version("tlsify")
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert version in said.stdout, said.stdout
    for name in FILES:
        assert list(prefix.glob(name)), f"there is no {prefix}/{name}"
    page = subprocess.run([command, "help", "handoff"], capture_output=True, text=True, check=True)
    assert page.stdout.startswith("# The contract"), page.stdout
    for name in (
        "README.md",
        "handoff.md",
        "operations.md",
        "cli/serve.md",
        "design/0019-calls-that-ask.md",
        "examples/receiver.c",
    ):
        assert (files("tlsify") / "docs" / name).is_file(), f"the package has no page {name}"
    assert (files("tlsify") / "py.typed").is_file()
    with tempfile.TemporaryDirectory() as folder:
        answer = _serve_and_fetch(command, Path(folder))
    assert answer.endswith(b"\r\n\r\nhello\n"), answer
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"tlsify {version} below {prefix}, Python {python}: works")


def _serve_and_fetch(command: str, folder: Path) -> bytes:
    """Return the answer to a request of one installed command, by another."""
    site = folder / "site"
    site.mkdir(mode=0o755)
    (site / "hello").write_bytes(b"hello\n")
    ca = str(folder / "ca.pem")
    words = [command, "serve", "--listen", "127.0.0.1:0", "--write-ca", ca, str(site)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ready = re.compile(r"serving .* on https://127\.0\.0\.1:(\d+)/")
        found = next(filter(None, map(ready.search, server.stdout)), None)
        assert found, "it did not start"
        words = [command, "connect", "--ignore-eof", "--ca", ca, "--servername", "localhost"]
        request = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        done = subprocess.run(
            [*words, "127.0.0.1", found[1]], input=request, capture_output=True, check=False
        )
        server.terminate()
    assert done.returncode == 0, done
    assert server.returncode == 0, server.returncode
    return done.stdout


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    os.environ["PYTHONWARNINGS"] = "error"
    main(Path(sys.argv[1]))
