"""The project's byte code for the guest, made on the host: under TCG that would take seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lane import cache, image

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import py_compile, sys
for line in sys.stdin.read().splitlines():
    source, target = line.split(chr(9))
    try:
        py_compile.compile(source, target, doraise=True)
    except (py_compile.PyCompileError, UnicodeError):
        pass  # whoever imports it will hear of it
"""
HEADER_SIZE = 16


def compiled(sources: list[Path]) -> dict[Path, Path]:
    """Return the file of byte code for each of the sources that can be compiled."""
    root = image.root()
    folder = cache.home() / "bytecode" / root.key
    folder.mkdir(parents=True, exist_ok=True)
    targets = {source: folder / f"{cache.digest(source)}.pyc" for source in sources}
    stale = [source for source in sources if not _is_fresh(source, targets[source])]
    if stale:
        listing = "".join(f"{source}\t{targets[source]}\n" for source in stale)
        image.run_python(root.tree, ["-c", PROGRAM], listing.encode())
    return {source: target for source, target in targets.items() if target.exists()}


def _is_fresh(source: Path, target: Path) -> bool:
    """Ask what Python itself will ask before it uses the byte code."""
    if not target.exists():
        return False
    with target.open("rb") as file:
        header = file.read(HEADER_SIZE)
    stat = source.stat()
    recorded = int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")
    return recorded == (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
