"""A private folder: files that appear whole or not at all, and a lock for several servers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from tlsify.errors import ConfigError, errno_name
from tlsify.system import whole_files
from tlsify.system.modes import make_private, open_private, own_alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Of a file that is read back: a chain of certificates with its key, at most.
MAX_FILE = 2**18
_LOCK = ".lock"
_RESERVE = ".reserve"
_RESERVED = 2**16


class Folder:
    """A folder of mode 0700, whose files have mode 0600."""

    def __init__(self, path: Path, what: str) -> None:
        """Name it; `check` makes and checks it.

        Args:
            path: of the folder.
            what: its name in messages.
        """
        self.path = path
        self._what = what

    def check(self, *, make: bool = True, parents: bool = False) -> Self:
        """Check that the folder is private, and ours.

        Args:
            make: whether it is made if there is none; otherwise it only has to be possible.
            parents: whether its parents would be made, too.

        Raises:
            ConfigError: it cannot be made or used, or others may use it.
        """
        if make or os.path.lexists(self.path):
            with self._opened():
                return self
        with self._refused():
            parent = self.path.absolute().parent
            while parents and not parent.exists():
                parent = parent.parent
            os.stat(parent / ".")  # a folder
            if not os.access(parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return self

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Raise an error of the system's as one of the configuration."""
        try:
            yield
        except OSError as exc:
            raise ConfigError(
                f"{self._what} {self.path}: {errno_name(exc.errno or 0)}: {exc.strerror}",
                hint="name a folder whose parent exists and is yours",
            ) from exc

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with self._refused():
            make_private(self.path)
            number = open_private(self.path, self._what)
        try:
            yield number
        finally:
            os.close(number)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none, or it is too long for one of ours.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return whole_files.read(self.path / name, MAX_FILE)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno == errno.EFBIG:
                return None
            raise

    def written(self, name: str) -> datetime:
        """Return when a file was written.

        Raises:
            OSError: there is none.
        """
        return datetime.fromtimestamp((self.path / name).stat().st_mtime, UTC)

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place, by renaming: no reader sees a part of it, and no crash leaves one.

        Raises:
            OSError: there is no room; the file in its place is as it was.
            ConfigError: the folder is not private any more.
        """
        beginning = f".{name.lstrip('.')}.{os.getpid()}"
        with self._opened() as folder:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beginning, dir_fd=folder)  # of a process that had our number
                number = os.open(beginning, flags, 0o600, dir_fd=folder)
                with os.fdopen(number, "wb") as file:
                    own_alone(number)
                    file.write(content)
                    file.flush()
                    os.fsync(number)
                os.rename(beginning, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beginning, dir_fd=folder)
                raise

    def remove(self, name: str) -> None:
        """Remove a file, if there is one.

        Raises:
            OSError: it cannot be removed.
        """
        (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Reserve room for what is about to come, and give it back at the end of the block.

        Whoever asks an authority for something first makes sure that there is room for it.

        Raises:
            OSError: there is none.
        """
        try:
            self.write(_RESERVE, bytes(_RESERVED))
            yield
        finally:
            with contextlib.suppress(OSError):
                self.remove(_RESERVE)

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Lock the folder, unless another process has it; the block is told which it is.

        Raises:
            OSError: there can be no lock.
            ConfigError: the folder is not private any more.
        """
        with self._opened() as folder:
            number = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            own_alone(number)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(number)
