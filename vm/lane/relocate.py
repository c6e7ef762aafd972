"""Make an unpacked tree of Debian's programs run where it lies, whatever the host has beside it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from lane.cache import LaneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHIM = Path(__file__).with_name("usr.c")
_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_SHIM = "libtlsify-usr.so"
_INTERPRETER = f"/{_LOADER}\0".encode()
# In Debian's files the path of the interpreter stands right behind the headers.
_HEAD = 4096
# e_type and ET_EXEC of elf.h.
_TYPE, _FIXED = 16, 2
_FOLDERS = ("usr/bin", "usr/sbin", "usr/lib", "usr/libexec")
_FIRST_LINE = re.compile(rb"#! ?(?:/usr/bin/env (?:-S )?|(?:/usr)?/bin/)([\w.+-]+)")
# It cannot be changed while it changes the others.
_PATCHELF = "patchelf"


def relocate(tree: Path, place: Path, compiler: Path) -> None:
    """Have the tree's programs find each other and their files there, and no library but its own.

    Each gets the tree's own loader, and its folders of libraries as DT_RPATH, which, unlike
    DT_RUNPATH, is there for the libraries' own libraries, too, and for what they load later. So
    nobody needs a variable that would reach other people's children, nor a script around him:
    `/proc/self/exe` is the program itself. What else is compiled into it is usr.c's business.

    Not so the few programs that lie at a fixed address, Python and GCC: patchelf breaks them. They
    stay as they are, and have to be run by the tree's loader (`tools.command_in`).

    Args:
        tree: where it is now; patchelf is in it.
        place: where it will be.
        compiler: a tree with a compiler, not relocated yet.
    """
    _compile(compiler, tree / _LIBRARIES / _SHIM, place)
    _move_links(tree)
    patch = _command(tree, _PATCHELF)
    loader = str(place / _LOADER)
    for path in _files(tree):
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head.startswith(b"#!"):
            _change_first_line(path, tree, place)
        elif not head.startswith(b"\x7fELF"):
            continue
        elif ".so" in path.name:
            # A library's own DT_RUNPATH would keep the loader from asking the program's DT_RPATH.
            if own := _rpath(patch, path, place):
                _run([*patch, "--force-rpath", "--set-rpath", own, path])
        elif _INTERPRETER in head and head[_TYPE] != _FIXED and path.name != _PATCHELF:
            own = _rpath(patch, path, place) + str(place / _LIBRARIES)
            words = ["--set-interpreter", loader, "--force-rpath", "--set-rpath", own]
            _run([*patch, *words, "--add-needed", _SHIM, path])


def _compile(compiler: Path, library: Path, place: Path) -> None:
    """Compile the shim, with a compiler whose parts cannot run by themselves yet."""
    run = _command(compiler, "true")[:3]
    gcc = compiler / "usr/bin/x86_64-linux-gnu-gcc-14"
    words: list[str | Path] = [*run, "--argv0", str(gcc), gcc, "-wrapper", ",".join(run)]
    words += [
        f"--sysroot={compiler}",
        f"-B{compiler}/usr/bin/",
        "-O2",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    # What is not fortified calls nothing that it defines.
    words += ["-U_FORTIFY_SOURCE", f'-DTREE="{place}"']
    compiled = library.with_suffix(".o")
    _run([*words, "-c", "-o", compiled, SHIM])
    _run([*_command(compiler, "x86_64-linux-gnu-ld"), "-shared", "-o", library, compiled])
    compiled.unlink()


def _command(tree: Path, program: str) -> list[str]:
    """Give the words that run a program which has not been relocated."""
    loader, libraries = tree / _LOADER, tree / _LIBRARIES
    return [str(loader), "--library-path", str(libraries), str(tree / "usr/bin" / program)]


def _move_links(tree: Path) -> None:
    """Have links that name absolute paths lead to the same files of the tree, where it has them."""
    for base, folders, names in os.walk(tree):
        for path in (Path(base, name) for name in [*folders, *names]):
            if path.is_symlink() and (target := path.readlink()).is_absolute():
                inside = tree / target.relative_to("/")
                if inside.exists() or inside.is_symlink():
                    path.unlink()
                    path.symlink_to(os.path.relpath(inside, path.parent.resolve()))


def _files(tree: Path) -> Iterator[Path]:
    """Give the files that can be programs, scripts or libraries, each once."""
    seen = set()
    for folder in _FOLDERS:
        for base, _, names in os.walk(tree / folder):
            for path in (Path(base, name) for name in names):
                number = path.lstat().st_ino
                if path.is_file() and not path.is_symlink() and number not in seen:
                    seen.add(number)
                    yield path


def _rpath(patch: Sequence[str], path: Path, place: Path) -> str:
    """Give a file's own folders of libraries, moved into the tree, each with a colon behind it."""
    own = _run([*patch, "--print-rpath", path]).strip()
    return "".join(
        f"{place}{folder}:" if folder.startswith("/") else f"{folder}:"
        for folder in filter(None, own.split(":"))
    )


def _run(words: Sequence[str | Path]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LaneError(f"{words[3]}: {words[-1]}: {done.stderr.strip()}", "report it")
    return done.stdout


def _change_first_line(path: Path, tree: Path, place: Path) -> None:
    """Have a script run by the tree's own interpreter, unless it is the shell: hosts have one."""
    text = path.read_bytes()
    match = _FIRST_LINE.match(text)
    if match and match[1] != b"sh":
        program = Path("usr/bin", match[1].decode())
        if (tree / program).exists():
            path.write_bytes(b"#!" + bytes(place / program) + text[match.end() :])
