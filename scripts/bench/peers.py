"""The programs that are measured: Debian's, unpacked into a cache of their own, and PyPI's.

Nothing is installed: all of it lies in one folder that natively and in every guest has the same
path. So every program is Debian 13's, with the same OpenSSL below it.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vm"))

from lane import apt, cache, image, kernel, qemu, umlbuild
from lane.cache import LaneError as LaneError  # noqa: PLC0414 - for those who call set_up

ROOT = image.PROJECT

SELECTION = apt.Selection(
    ("trixie", "trixie-security"),
    (
        *("nginx-light", "haproxy", "hitch", "stunnel4", "socat", "ncat"),
        *("openssl", "busybox", "gnutls-bin", "python3"),
    ),
)
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
        """Give the same command with more behind it."""
        return Words((*self.words, *map(str, arguments)), self.environment)


def set_up() -> None:
    """Fetch whatever is missing.

    Raises:
        LaneError: it cannot be had.
    """
    _environment_tree()
    _build()


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
    """Give the folder with all peers, filled if it is not there."""
    debs = apt.select("bench", SELECTION)
    sources = [ROOT / "docs/examples" / name for name in FILES_PROGRAM]

    def make(folder: Path) -> None:
        tree = folder / "debian"
        tree.mkdir()
        apt.unpack(SELECTION, debs, tree)
        for name in image.UNUSED:
            shutil.rmtree(tree / name, ignore_errors=True)
        _install(folder / "python")
        _compile(folder / "files", sources)

    key = cache.digest("bench 1", debs, PYTHON_PACKAGES, cache.file_digest(*sources))
    return cache.build("bench", key, "fetching what is to be measured", make)


def _install(folder: Path) -> None:
    words = [str(ROOT / ".venv/bin/python"), "-m", "pip", "install", "--quiet"]
    words += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    words += ["--python-version", image.PYTHON, "--target", str(folder), *PYTHON_PACKAGES]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LaneError(f"pip failed: {done.stderr.strip()}", "is PyPI reachable?")


def _compile(program: Path, sources: list[Path]) -> None:
    """Build the C program, where there is a compiler; its contender is missing otherwise."""
    if (compiler := shutil.which("cc")) is not None:
        subprocess.run([compiler, "-O2", "-o", str(program), *map(str, sources)], check=True)


@functools.cache
def folder() -> Path | None:
    """Give the folder with the peers if it is there already; None leaves what PATH has."""
    if named := os.environ.get(TREE_VARIABLE):
        return Path(named)
    if IN_GUEST:
        return None
    try:
        with _peeking:
            return cache.peek(_build)
    except LaneError:
        return None


def find(program: str) -> Words | None:
    """Give the command that runs one of the peers; None if it is nowhere."""
    place = folder()
    if place is not None and not IN_GUEST:
        for part in ("bin", "sbin"):
            if (place / "debian/usr" / part / program).exists():
                return _in_tree(place / "debian", Path("usr", part, program))
    if place is not None and IN_GUEST:
        # A guest's own libraries are of the same suite, and its own programs come first.
        known = shutil.which(program)
        for part in ("bin", "sbin"):
            path = place / "debian/usr" / part / program
            if known is None and path.exists():
                libraries = place / "debian/usr/lib/x86_64-linux-gnu"
                return Words((str(path),), {"LD_LIBRARY_PATH": str(libraries)})
    found = shutil.which(program)
    return None if found is None else Words((found,))


def _in_tree(tree: Path, program: Path) -> Words:
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    loader = tree / "lib64/ld-linux-x86-64.so.2"
    words = (str(loader), "--library-path", str(libraries), "--argv0", program.name)
    return Words((*words, str(tree / program)))


def missing(program: str) -> str | None:
    """Say why a program cannot be measured; None if it can."""
    if find(program) is not None:
        return None
    return UNPACKAGED.get(program, NOT_INSTALLED)


@functools.cache
def python() -> Words:
    """Give the Python that every Python contender runs with, tlsify's packages in its path."""
    if IN_GUEST:
        return Words((sys.executable,), {"PYTHONPATH": _path()})
    place = folder()
    if place is None or _environment() is None:
        return Words((sys.executable,), {"PYTHONPATH": str(ROOT)})
    tree = place / "debian"
    words = _in_tree(tree, Path("usr/bin", f"python{image.PYTHON}"))
    return Words(words.words, {"PYTHONHOME": str(tree / "usr"), "PYTHONPATH": _path()})


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
    """Give the packages that guests have, to be used by the same Python here."""
    if IN_GUEST:
        return None
    try:
        with _peeking:
            return cache.peek(_environment_tree)
    except LaneError:
        return None


def python_has(package: str) -> bool:
    """Tell whether the contenders' Python can import a package."""
    return _ask(python().with_arguments("-c", f"import {package}"))[0]


def files_program() -> Words | None:
    """Give the server in C that gets its connections passed; None where there was no compiler."""
    place = folder()
    path = None if place is None else place / "files"
    return Words((str(path),)) if path is not None and path.exists() else None


def versions() -> dict[str, str]:
    """Say which version of each program is there; missing ones with the reason."""
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
