"""Where the lane keeps what it downloads and builds, and how one build at a time gets there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")

# Checkouts with different dependencies take turns in one cache; what one of them used
# this recently is not "superseded" by what another has just built.
IN_USE_SECONDS = 3600


class LaneError(Exception):
    """The lane itself failed, as opposed to the command that it was asked to run."""

    def __init__(self, message: str, hint: str) -> None:
        """Keep what went wrong and what the user can do about it."""
        super().__init__(message)
        self.hint = hint


class NotReadyError(Exception):
    """Something would have to be fetched or built."""


_peeking = False


def peek(action: Callable[[], Result]) -> Result | None:
    """Return the action's result if all that it needs is in the cache, else None."""
    global _peeking  # noqa: PLW0603 - one process asks one question at a time
    _peeking = True
    try:
        return action()
    except NotReadyError:
        return None
    finally:
        _peeking = False


def about_to(what: str) -> None:
    """Report the start of something that takes a while, unless this is only a peek."""
    if _peeking:
        raise NotReadyError
    print(f"vm: {what}", file=sys.stderr, flush=True)


def home() -> Path:
    """Return the cache's folder, made if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tlsify" / "vm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*parts: object) -> str:
    """Return a short name for exactly these inputs."""
    text = json.dumps(parts, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(*paths: Path) -> str:
    """Return a short name for the contents of these files."""
    return digest(*(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths))


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the cache's lock of that name; a second process waits for the first."""
    folder = home() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(kind: str, key: str, what: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of this build; `make` fills it the first time.

    It is filled under another name and renamed when complete, so an interrupted build leaves
    nothing that a later call could take for whole.
    """
    ready = home() / kind / key
    if ready.is_dir():
        os.utime(ready)
        return ready
    with lock(f"build-{kind}"):
        if ready.is_dir():
            return ready
        about_to(what)
        unfinished = home() / kind / ".building"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            make(unfinished)
            unfinished.rename(ready)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        _drop_superseded(ready)
    return ready


def _drop_superseded(ready: Path) -> None:
    for sibling in ready.parent.iterdir():
        unused = time.time() - sibling.stat().st_mtime
        if sibling != ready and unused > IN_USE_SECONDS:
            shutil.rmtree(sibling, ignore_errors=True)
