"""Builds the quick lane's kernel: Debian's source, as user-mode Linux, with the x86 crypto."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from lane import apt, cache, image
from lane.cache import LaneError
from lane.collection import Collection
from lane.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Mapping

VM = Path(__file__).resolve().parents[1]
CONFIG = VM / "uml.config"
PATCHES = (VM / "uml-x86-crypto.diff", VM / "uml-host-mappings.diff")

SELECTION = apt.Selection(
    ("trixie", "trixie-security", "trixie-backports"), ("linux-source",), "linux-source-"
)
# What the first patch's Makefile builds from copies of arch/x86/crypto.
COPIED = ("aesni-intel_glue.c", "aesni-intel_asm.S", "aes-*.S")
# Program that must be there, and the Debian package that has it.
NEEDED = {"gcc": "gcc", "make": "make", "patch": "patch", "perl": "perl", "xz": "xz-utils"}
# What few have who build no kernels.
RARE = Collection(
    "generators",
    "what else it takes to build a kernel",
    apt.Selection(image.SELECTION.suites, ("bc", "bison", "flex", "m4", "patchelf")),
    {name: f"usr/bin/{name}" for name in ("bc", "bison", "flex", "m4")},
    variables={"BISON_PKGDATADIR": "usr/share/bison", "M4": "programs/m4"},
    compiler=lambda: PEERS.tree,
)


def ready() -> Path:
    """Return the kernel that TLSIFY_UML names, or else ours, built if it is not there."""
    if named := os.environ.get("TLSIFY_UML"):
        return Path(named)
    return build() / "linux"


def kernel() -> Path:
    """Return the built kernel, or the one that TLSIFY_UML names."""
    if named := os.environ.get("TLSIFY_UML"):
        return Path(named)
    if built := cache.peek(build):
        return built / "linux"
    raise LaneError(
        "the quick lane's kernel is not built", "vm/build-uml builds it, once, in ten minutes"
    )


def build() -> Path:
    """Return the folder of the kernel, built if it is not there."""
    debs = apt.select("uml", SELECTION)
    key = cache.digest("uml 1", debs, cache.file_digest(CONFIG, *PATCHES), COPIED)
    what = "building the quick lane's kernel (about ten minutes)"
    return cache.build("uml", key, what, lambda folder: _build(folder, debs))


def _build(folder: Path, debs: list[str]) -> None:
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if missing:
        raise LaneError(
            f"to build a kernel takes {', '.join(missing)}", f"apt-get install {' '.join(missing)}"
        )
    has_all = all(shutil.which(program) for program in RARE.programs)
    environment = os.environ | ({} if has_all else RARE.environment())
    package = folder / "package"
    package.mkdir()
    apt.unpack(SELECTION, debs, package)
    (archive,) = (package / "usr/src").glob("linux-source-*.tar.xz")
    source = folder / "source"
    source.mkdir()
    _run(["tar", "-x", "--strip-components=1", "-f", str(archive), "-C", str(source)], folder)
    copies = source / "crypto/umlx86"
    copies.mkdir()
    for pattern in COPIED:
        for path in (source / "arch/x86/crypto").glob(pattern):
            shutil.copy(path, copies)
    for patch in PATCHES:
        _run(["patch", "-p1", "--batch", "-i", str(patch)], source)
    make = ["make", "ARCH=um", f"-j{os.cpu_count()}"]
    _run([*make, "allnoconfig", f"KCONFIG_ALLCONFIG={CONFIG}"], source, environment)
    _run([*make, "linux"], source, environment)
    _run(["strip", "-o", str(folder / "linux"), str(source / "linux")], folder)
    (folder / "version").write_text(debs[0].split("_")[1])
    for leftover in (package, source):
        shutil.rmtree(leftover)


def _run(words: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        end = "\n".join([*done.stdout.splitlines()[-5:], *done.stderr.splitlines()[-15:]])
        raise LaneError(f"{words[0]} failed", f"it ended with:\n{end}")
