"""The project's byte code for the guest, made on the host: under TCG that would take minutes."""

from __future__ import annotations

import os
import subprocess
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


def made(sources: list[Path]) -> dict[Path, Path]:
    """Return the file of byte code for each place where the guest's Python looks for one."""
    tag = f"cpython-{image.PYTHON.replace('.', '')}"
    return {
        **{
            source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc": code
            for source, code in compiled(sources).items()
        },
        **{
            source.parent / "__pycache__" / code.name: code
            for source, code in _rewritten(sources).items()
        },
    }


def put(sources: list[Path]) -> None:
    """Put the byte code beside the modules themselves, for a guest that sees the host's folders."""
    for place, code in made(sources).items():
        content = code.read_bytes()
        if not place.exists() or place.read_bytes() != content:
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(content)


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


def _rewritten(sources: list[Path]) -> dict[Path, Path]:
    """Return the file of byte code that pytest makes of each test module among the sources.

    pytest puts code of its own in the place of `assert`, and would do so anew in every guest,
    which cannot write into the project. The guest's pytest does it here, while it collects.
    """
    modules = [source for source in sources if _is_rewritten(source)]
    prefix = cache.home() / "bytecode" / image.environment().key
    if stale := [source for source in modules if _made(prefix, source) is None]:
        cache.about_to(f"compiling {len(stale)} test modules")
        _collect(prefix, stale)
    found = {source: _made(prefix, source) for source in modules}
    return {source: target for source, target in found.items() if target is not None}


def _is_rewritten(source: Path) -> bool:
    in_tests = source.is_relative_to(image.PROJECT / "tests")
    return in_tests and (source.name.startswith("test_") or source.name == "conftest.py")


def _made(prefix: Path, source: Path) -> Path | None:
    """Return pytest's byte code for a module if it is there, and newer than the module.

    It holds a hash of the module, by which the guest's pytest tells again.
    """
    folder = prefix.joinpath(*source.parent.parts[1:])
    changed = source.stat().st_mtime_ns
    made = folder.glob(f"{source.stem}.*-pytest-*.pyc")
    return next((target for target in made if target.stat().st_mtime_ns > changed), None)


def _collect(prefix: Path, modules: list[Path]) -> None:
    """Have the guest's pytest collect test modules on the host, for the byte code it leaves.

    What is wrong with a module is found by the call that is being prepared.
    """
    environment = os.environ | image.python_environment() | {"PYTHONPYCACHEPREFIX": str(prefix)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(
        [
            *image.python_words(image.root().tree),
            *("-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-qq"),
            *map(str, modules),
        ],
        cwd=image.PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _is_fresh(source: Path, target: Path) -> bool:
    """Ask what Python itself will ask before it uses the byte code."""
    if not target.exists():
        return False
    with target.open("rb") as file:
        header = file.read(HEADER_SIZE)
    stat = source.stat()
    recorded = int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")
    return recorded == (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
