"""The block device that brings the project and the mounted folders into a QEMU guest."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lane import bytecode, cache, tools
from lane.cache import LaneError

if TYPE_CHECKING:
    from collections.abc import Iterator

# A guest restored from a snapshot believes in the size that it saw when it booted.
SIZE = 16 << 30
# Of the project; of the mounted folders nothing is left out.
LEFT_OUT = {
    *(".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
    *(".hypothesis", ".import_linter_cache", ".scratch", "node_modules"),
}


@contextlib.contextmanager
def empty() -> Iterator[IO[bytes]]:
    """Give a device with nothing on it, for the boot that becomes a snapshot."""
    # Neither file here has a name, so however a call ends nothing of it stays on the disk.
    with tempfile.TemporaryFile(dir=cache.home()) as device:
        device.truncate(SIZE)
        yield device


@contextlib.contextmanager
def filled(project: Path, mounts: tuple[Path, ...]) -> Iterator[IO[bytes]]:
    """Give a device with the project in folder 0 and the mounts in folders 1, 2, ..."""
    folder = cache.home()
    with tempfile.TemporaryFile(dir=folder) as device, tempfile.TemporaryFile(dir=folder) as tar:
        with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, project, "0", LEFT_OUT)
            archive.addfile(_directory("0/.scratch"))
            _add_bytecode(archive, project)
            for number, mount in enumerate(mounts, 1):
                _add(archive, mount, str(number), set())
        tar.seek(0)
        mkfs = tools.command_in(tools.tree(), "mkfs.erofs")
        words = [*mkfs, "-d0", "--all-root", "-x-1", "--preserve-mtime", "--tar=f"]
        done = subprocess.run(
            [*words, f"/proc/self/fd/{device.fileno()}"],
            stdin=tar,
            capture_output=True,
            text=True,
            pass_fds=[device.fileno()],
            check=False,
        )
        if done.returncode:
            raise LaneError(f"mkfs.erofs failed: {done.stderr.strip()}", "is the disk full?")
        if os.fstat(device.fileno()).st_size > SIZE:
            raise LaneError("the mounted folders are too large", f"the limit is {SIZE >> 30} GiB")
        device.truncate(SIZE)
        yield device


def _add(archive: tarfile.TarFile, folder: Path, name: str, left_out: set[str]) -> None:
    archive.addfile(_directory(name))
    for path, member in _walk(folder, name, left_out):
        # What somebody deletes meanwhile is simply not there.
        with contextlib.suppress(FileNotFoundError):
            info = archive.gettarinfo(path, member)
            info.uid = info.gid = 0
            if info.isreg():
                with path.open("rb") as content:
                    archive.addfile(info, content)
            elif info.isdir() or info.issym() or info.islnk():
                archive.addfile(info)


def sources(project: Path) -> list[Path]:
    """List the project's Python modules."""
    files = (path for path, _ in _walk(project, "0", LEFT_OUT) if path.suffix == ".py")
    return [path for path in files if path.is_file()]


def _add_bytecode(archive: tarfile.TarFile, project: Path) -> None:
    folders = set()
    for target, code in bytecode.made(sources(project)).items():
        member = Path("0") / target.relative_to(project)
        if member.parent not in folders:
            archive.addfile(_directory(str(member.parent)))
            folders.add(member.parent)
        with code.open("rb") as content:
            info = archive.gettarinfo(arcname=str(member), fileobj=content)
            info.uid = info.gid = 0
            archive.addfile(info, content)


def _walk(folder: Path, name: str, left_out: set[str]) -> Iterator[tuple[Path, str]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in left_out:
            continue
        member = f"{name}/{entry.name}"
        if not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
            yield Path(entry.path), member
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), member, left_out)


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    info.mode = 0o755
    return info
