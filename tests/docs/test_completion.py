"""Completion, asked for in real shells."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.docs.examples import PROJECT
from tests.interop.programs import PATIENCE, require
from tlsify.cli.parser import ABOUT, VERBS

if TYPE_CHECKING:
    from pathlib import Path

_ALL_MODES = {"auto", "require", "off"}


def _bash(folder: Path, line: str) -> set[str]:
    """Return what bash offers at the end of a line, divided into words as readline does it."""
    require("bash")
    words = line.replace("=", " = ").replace("  ", " ").split(" ")
    if line.endswith("="):
        words.pop()
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        'eval "$(complete -p tlsify | sed "s/.*-F \\([^ ]*\\) .*/\\1/")"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    completion = PROJECT / "tlsify/cli/completions/tlsify.bash"
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", completion, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file and a folder."""
    (tmp_path / "chain.pem").touch()
    (tmp_path / "children").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tlsify ", {*VERBS, *ABOUT}),
        ("tlsify co", {"connect", "completion", "config"}),
        ("tlsify --ktls con", {"connect", "config"}),
        ("tlsify --ktls=", _ALL_MODES),
        ("tlsify --ktls=req", {"require"}),
        ("tlsify --ktls=require li", {"listen"}),
        ("tlsify --ktls-rekey r", {"require"}),
        ("tlsify help exit", {"exit-codes"}),
        ("tlsify connect --starttls sm", {"smtp"}),
        ("tlsify completion f", {"fish"}),
        ("tlsify connect --ser", {"--servername"}),
        ("tlsify connect --tls-m", {"--tls-min", "--tls-max"}),
        ("tlsify connect --tls-min ", {"1.2", "1.3"}),
        ("tlsify connect --tls-min=1.3 --no", {"--no-verify"}),
        ("tlsify connect --cert ch", {"chain.pem", "children"}),
        ("tlsify --ktls=auto connect --ca ch", {"chain.pem", "children"}),
        ("tlsify serve ch", {"children"}),
        ("tlsify serve --hsts ch", {"children"}),
        ("tlsify accept --per", set()),
        ("tlsify listen 127.0.0.1 7000 -- sha256su", {"sha256sum"}),
    ],
)
def test_bash_offers(folder: Path, line: str, offered: set[str]) -> None:
    """Verbs, their own options, values, files, folders, programs; nothing that would not do."""
    assert _bash(folder, line) == offered


def test_bash_offers_every_option_of_a_verb(folder: Path) -> None:
    """What --help lists can be completed."""
    offered = _bash(folder, "tlsify check --")
    assert offered == {"--config", "--json", "--help"}


def _zsh(folder: Path, line: str, expected: str) -> None:
    """Type a line and a tab into an interactive zsh, and wait for what it makes of that."""
    require("zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "TERM": "dumb", "PS1": "> "})
    functions = PROJECT / "tlsify/cli/completions"
    setup = f"unsetopt ALWAYS_LAST_PROMPT; fpath=({functions} $fpath); autoload -U compinit"
    try:
        os.write(terminal, f"{setup}; compinit -D; print rea''dy\n".encode())
        _expect(terminal, b"ready\r")
        os.write(terminal, f"{line}\t".encode())
        _expect(terminal, expected.encode())
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def _expect(terminal: int, words: bytes) -> None:
    seen = b""
    deadline = time.monotonic() + PATIENCE
    while words not in seen:
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], seen
        seen += os.read(terminal, 2**16)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tlsify conn", "tlsify connect "),
        ("tlsify --ktls=req", "tlsify --ktls=require "),
        ("tlsify --ktls list", "tlsify --ktls listen "),
        ("tlsify connect --serv", "tlsify connect --servername "),
        ("tlsify connect --cert cha", "tlsify connect --cert chain.pem"),
        ("tlsify serve chi", "tlsify serve children/"),
        ("tlsify check --j", "tlsify check --json"),
    ],
)
def test_zsh_completes(folder: Path, line: str, expected: str) -> None:
    """The one thing that fits is filled in."""
    _zsh(folder, line, expected)
