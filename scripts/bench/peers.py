"""The programs that are measured: Debian's, which the tests and guests have, too, and PyPI's.

Nothing is installed. Natively Debian's are in the peers' tree of the lane's cache, and in a guest
in its root image, from the same packages: every program is Debian 13's, with the same OpenSSL.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vm"))

from lane import cache, image, kernel, qemu, tools, umlbuild
from lane.cache import LaneError as LaneError  # noqa: PLC0414 - for those who call set_up
from lane.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = image.PROJECT

# What people run beside Debian's: for the guest's Python, since it takes the place of its modules.
PYTHON_PACKAGES = ("aiofastnet",)
# The server in C, an example of ours: it knows no TLS.
FILES_PROGRAM = ("files.c", "receiver.c")
NOT_INSTALLED = "not installed: run scripts/bench/run --setup --native"
# In no Debian suite that is used here; named so that the tables say so.
UNPACKAGED = {
    "s6-tlsc": "not packaged by Debian 13",
    "s6-tlsclient": "not packaged by Debian 13",
    "ghostunnel": "not packaged by Debian 13",
}
IN_GUEST = os.environ.get("TLSIFY_GUEST", "")
# In a guest the cache's folder is a mount, which the caller names.
TREE_VARIABLE = "TLSIFY_BENCH_PEERS"

# A guest's processor may be emulated, and be starting others.
_ANSWER_SECONDS = 300 if IN_GUEST else 30
_VERSIONS = {
    "nginx": ("-v",),
    "haproxy": ("-v",),
    "hitch": ("--version",),
    "stunnel4": ("-version",),
    "socat": ("-V",),
    "ncat": ("--version",),
    "openssl": ("version",),
    "busybox": (),
    "gnutls-cli": ("--version",),
    "python3": (
        "-c",
        "import platform, ssl; print(platform.python_version(), ssl.OPENSSL_VERSION)",
    ),
}

# Contenders start in threads, and the lanes' cache knows of one question at a time.
_peeking = threading.Lock()


@dataclass(frozen=True)
class Words:
    """A command and what it wants in its environment."""

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def with_arguments(self, *arguments: object) -> Words:
        """Return the same command with more behind it."""
        return Words((*self.words, *map(str, arguments)), self.environment)


def set_up() -> None:
    """Fetch whatever is missing.

    Raises:
        LaneError: it cannot be had.
    """
    _environment_tree()
    _build()  # with a compiler of the peers' tree, which that has fetched


def set_up_guest(name: str) -> None:
    """Build whatever of a guest is missing.

    Raises:
        LaneError: it cannot be had.
    """
    if name == "uml":
        if not os.environ.get("TLSIFY_UML"):  # which names one that is built
            umlbuild.build()
    else:
        qemu.ready_snapshot(kernel.declared()[name])


def _environment_tree() -> Path:
    return image.environment().tree


def _build() -> Path:
    """Return the folder with what is not Debian's, filled if it is not there."""
    sources = [ROOT / "docs/examples" / name for name in FILES_PROGRAM]

    def make(folder: Path) -> None:
        _install(folder / "python")
        # Guests run it, too, with libraries of their own.
        words = [str(PEERS.program("gcc")), "-O2", "-static", "-o", str(folder / "files")]
        subprocess.run([*words, *map(str, sources)], check=True)

    key = cache.digest("bench 2", PYTHON_PACKAGES, cache.file_digest(*sources))
    return cache.build("bench", key, "fetching what is to be measured", make)


def _install(folder: Path) -> None:
    words = [str(ROOT / ".venv/bin/python"), "-m", "pip", "install", "--quiet"]
    words += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    words += ["--python-version", image.PYTHON, "--target", str(folder), *PYTHON_PACKAGES]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LaneError(f"pip failed: {done.stderr.strip()}", "is PyPI reachable?")


@functools.cache
def folder() -> Path | None:
    """Return the folder with what is not Debian's, if it is there already."""
    if named := os.environ.get(TREE_VARIABLE):
        return Path(named)
    if IN_GUEST:
        return None
    return _peek(_build)


@functools.cache
def _tree() -> Path | None:
    """Return the tree with Debian's programs if it is there already; guests have none."""
    return None if IN_GUEST else _peek(lambda: PEERS.tree)


def _peek(action: Callable[[], Path]) -> Path | None:
    try:
        with _peeking:
            return cache.peek(action)
    except LaneError:
        return None


def find(program: str) -> Words | None:
    """Return the command that runs one of the peers; None if it is nowhere."""
    if IN_GUEST or program in UNPACKAGED:
        found = shutil.which(program)
        return None if found is None else Words((found,))
    known = _tree() is not None and program in PEERS.programs
    return Words((str(PEERS.program(program)),)) if known else None


def missing(program: str) -> str | None:
    """Return why a program cannot be measured; None if it can."""
    if find(program) is not None:
        return None
    return UNPACKAGED.get(program, NOT_INSTALLED)


@functools.cache
def python() -> Words:
    """Return the Python that every Python contender runs with, tlsify's packages in its path."""
    if IN_GUEST:
        return Words((sys.executable,), {"PYTHONPATH": _path()})
    tree = _tree()
    if tree is None or _environment() is None:
        return Words((sys.executable,), {"PYTHONPATH": str(ROOT)})
    words = tools.command_in(tree, f"python{image.PYTHON}")
    return Words(tuple(words), {"PYTHONHOME": str(tree / "usr"), "PYTHONPATH": _path()})


def compile_project() -> None:
    """Write the project's bytecode, as installing it would; guests' lanes do so by themselves."""
    code = ("-m", "compileall", "-q", str(ROOT / "tlsify"))
    for words in (python(), Words((sys.executable,))):
        subprocess.run(
            words.with_arguments(*code).words, env=os.environ | words.environment, check=True
        )


def _path() -> str:
    places = [str(ROOT)]
    if (place := folder()) is not None:
        places.append(str(place / "python"))
    if (environment := _environment()) is not None:
        places.append(str(environment / f"lib/python{image.PYTHON}/site-packages"))
    return os.pathsep.join(places)


@functools.cache
def _environment() -> Path | None:
    """Return the packages that guests have, to be used by the same Python here."""
    return None if IN_GUEST else _peek(_environment_tree)


def python_has(package: str) -> bool:
    """Return whether the contenders' Python can import a package."""
    return _ask(python().with_arguments("-c", f"import {package}"))[0]


def files_program() -> Words | None:
    """Return the server in C that gets its connections passed."""
    place = folder()
    path = None if place is None else place / "files"
    return Words((str(path),)) if path is not None and path.exists() else None


def versions() -> dict[str, str]:
    """Return each program's version; for a missing one the reason."""
    found = {}
    for program, arguments in _VERSIONS.items():
        words = python() if program == "python3" else find(program)
        if words is None:
            found[program] = f"missing: {missing(program)}"
            continue
        _, text = _ask(words.with_arguments(*arguments))
        found[program] = _first_version(text, program)
    found |= {program: f"missing: {reason}" for program, reason in UNPACKAGED.items()}
    code = (
        "import importlib.metadata as m\n"
        "from OpenSSL import SSL\n"
        "print(SSL.OpenSSL_version(0).decode().split()[1])\n"
        "for n in ('cryptography', 'pyOpenSSL', 'aiohttp', 'gunicorn', 'hypercorn', 'aiofastnet', "
        "'uvloop'):\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    ran, text = _ask(python().with_arguments("-c", code))
    first, *packages = text.splitlines() if ran else ("?",)
    found["cryptography's OpenSSL"] = first
    found |= dict(line.split(" ", 1) for line in packages)
    return found


def _first_version(text: str, program: str) -> str:
    if program == "python3":
        return text.strip()
    match = re.search(r"\d+\.\d+[\w.+-]*", text)
    return match[0] if match else "?"


def _ask(words: Words) -> tuple[bool, str]:
    try:
        done = subprocess.run(
            words.words,
            env=os.environ | words.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return False, str(exc)
    return done.returncode == 0, done.stdout + done.stderr
