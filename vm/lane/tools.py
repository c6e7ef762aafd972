"""The programs that the lane runs on the host: QEMU and others from trixie, not installed."""

from __future__ import annotations

import functools
import shutil
import subprocess
from typing import TYPE_CHECKING

from lane import apt, cache
from lane.cache import LaneError

if TYPE_CHECKING:
    from pathlib import Path

SELECTION = apt.Selection(
    ("trixie", "trixie-security"),
    ("qemu-system-x86", "erofs-utils", "busybox-static", "kmod"),
)


@functools.cache
def tree() -> Path:
    """Return the tools' tree, fetched if it is not there."""
    debs = apt.select("tools", SELECTION)

    def make(folder: Path) -> None:
        apt.unpack(SELECTION, debs, folder)
        shutil.rmtree(folder / "usr/share/doc")

    return cache.build(
        "tools", cache.digest("tools 1", debs), "fetching QEMU and erofs-utils", make
    )


def command_in(folder: Path, program: str, name: str | None = None) -> list[str]:
    """Return the words that run a tree's program with that tree's own loader and libraries."""
    return [
        str(folder / "lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        str(folder / "usr/lib/x86_64-linux-gnu"),
        "--argv0",
        name or program,
        str(folder / "usr/bin" / program),
    ]


def run(words: list[str], *, data: bytes = b"", cwd: Path | None = None) -> bytes:
    """Run one of the tools to its end and return what it printed."""
    done = subprocess.run(words, input=data, cwd=cwd, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise LaneError(
            f"{words[-1]}: {reason[-1] if reason else done.returncode}", "is the disk full?"
        )
    return done.stdout


def make_erofs(image: Path, folder: Path) -> None:
    """Make a compressed read-only image of a folder, everything owned by root."""
    mkfs = command_in(tree(), "mkfs.erofs")
    run([*mkfs, "-d0", "-zlz4", "--all-root", "-x-1", str(image), str(folder)])
