"""An index of a folder of trust anchors, in a private cache: OpenSSL reads only what it needs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tlsify.credentials.anchors import ANCHOR_SUFFIXES
from tlsify.credentials.pem import malformed, no_anchors, read_pem
from tlsify.credentials.reading import TRUST_ANCHORS, read_files, unreadable
from tlsify.errors import ConfigError
from tlsify.system.modes import is_own, make_private, own_alone
from tlsify.system.process import has_foreign_rights
from tlsify.system.whole_files import entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# An index is a folder of links, each named after the hash of a subject's name, as OpenSSL expects
# it: through them OpenSSL reads the source folder's own files, and only those that it needs. So a
# stale index can hide an anchor, but not add one that the source does not hold.
#
# In the cache there are, for each source folder (ORIGIN is a hash of its path):
#   ORIGIN            a link whose text names the current index, the state of its source, and the
#                     inode and ctime of the finished index; replaced atomically
#   ORIGIN.TOKEN/     an index; any later change in it changes its ctime, and so shows
# A process that uses an index holds a shared lock on the file "lock" in it. Unused indexes that no
# link names are removed when the next one is made.
_ORIGIN = "[0-9a-f]{32}"  # compiled where they are needed, which is not at each start
_INDEX = _ORIGIN + r"\.[0-9a-f]{16}"
_NEW = _INDEX + r"\.new"
_TOKEN_LENGTH = 16
_LOCK = "lock"
# Source folders with an index; the least recently indexed lose theirs first.
SOURCES = 32
# Most links for each certificate that are worth making. More would take many files with several
# certificates each, of authorities that have the same name and different keys.
_LINKS_PER_CERTIFICATE = 8
_ABANDONED = 60.0  # seconds after which an unfinished index has lost its maker


class Survey(NamedTuple):
    """Contents of a folder of trust anchors, by name, and a 32-byte digest of its state."""

    names: Sequence[str]
    state: bytes


def survey(source: Path) -> Survey:
    """Check each file's metadata, without opening it.

    Raises:
        ConfigError: an entry is not a file, or there is no file.
        OSError: the folder cannot be read, or has too many names.
    """
    found = []
    for entry in entries(source):
        name = entry.name
        if not name.endswith(ANCHOR_SUFFIXES) or name in ANCHOR_SUFFIXES:
            continue
        try:
            now = entry.stat()
        except OSError as exc:
            raise unreadable(source / name, "trust anchor", exc) from exc
        if not stat.S_ISREG(now.st_mode):
            raise ConfigError(
                f"trust anchor {source / name} is not a file",
                hint="move it away: every .pem and .crt in the folder has to be a certificate",
            )
        found.append((name, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
    if not found:
        raise no_anchors(source)
    found.sort()
    state = hashlib.sha256(repr(found).encode("ascii", "backslashreplace"))
    return Survey([file[0] for file in found], state.digest())


class Index:
    """An index in use, which no process removes during this object's life.

    Attributes:
        folder: the index's own.
    """

    def __init__(self, folder: Path, lock: str = _LOCK, flags: int = os.O_RDONLY) -> None:
        """Lock the index.

        Raises:
            OSError: it does not exist, or is being removed.
        """
        self.folder = folder
        self._lock = os.open(folder / lock, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if flags & os.O_CREAT:
                own_alone(self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise

    @classmethod
    def make(cls, folder: Path, links: Iterable[tuple[str, Path]]) -> Self:
        """Make an index of links, by name.

        Raises:
            OSError: it cannot be made; no part of it is left.
        """
        make_private(folder)
        try:
            # Under its own name the file must never be seen unlocked.
            index = cls(folder, "new", os.O_RDWR | os.O_CREAT | os.O_EXCL)
            (folder / "new").rename(folder / _LOCK)
            # By descriptor, since the whole path would be resolved for each link.
            within = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name, target in links:
                    os.symlink(target, name, dir_fd=within)
            finally:
                os.close(within)
        except OSError:
            _empty(folder)
            raise
        return index

    def describe(self, state: bytes) -> str:
        """Return the text of a link to this index, which differs once the index was changed."""
        now = os.lstat(self.folder)
        token = self.folder.name[-_TOKEN_LENGTH:]
        return f"{token} {state.hex()} {now.st_ino} {now.st_ctime_ns}"

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # it may never have been opened
            os.close(self._lock)


class Cache:
    """A private folder of indexes; any number of processes may use it."""

    def __init__(self, root: Path) -> None:
        """Use a folder; create it if it does not exist.

        Raises:
            OSError: it cannot be created, or other users could read or change its files.
        """
        if ":" in str(root):
            raise OSError(errno.EINVAL, "OpenSSL takes a colon for the end of a path", str(root))
        _make_own(root, stat.S_IRWXG | stat.S_IRWXO)
        self._root = root

    def index(self, source: Path, survey: Survey) -> Index:
        """Return the index of a folder; make it unless there is one of exactly this state.

        Raises:
            ConfigError: a file in it is unusable.
            OSError: no index can be made.
        """
        origin = hashlib.sha256(os.fsencode(source)).hexdigest()[:32]
        found = self._current(origin, survey.state)
        return self._make(origin, source, survey) if found is None else found

    def _current(self, origin: str, state: bytes) -> Index | None:
        try:
            text = str((self._root / origin).readlink())
            index = Index(self._root / _name(origin, text))
            return index if index.describe(state) == text else None
        except OSError:
            return None

    def _make(self, origin: str, source: Path, survey: Survey) -> Index:
        links = _links(source, survey.names)
        folder = self._root / f"{origin}.{os.urandom(_TOKEN_LENGTH // 2).hex()}"
        index = Index.make(folder, links)
        new = folder.with_name(f"{folder.name}.new")
        try:
            new.symlink_to(index.describe(survey.state))
            new.replace(self._root / origin)
        except OSError:
            _empty(folder)
            raise
        with contextlib.suppress(OSError):
            self._tidy()
        return index

    def _tidy(self) -> None:
        """Remove indexes in excess, outdated ones, and remains of crashed processes."""
        found = list(self._root.iterdir())
        origins = [path for path in found if re.fullmatch(_ORIGIN, path.name)]
        origins.sort(key=lambda path: path.lstat().st_mtime_ns, reverse=True)
        for path in origins[SOURCES:]:
            path.unlink()
        current = {_name(path.name, str(path.readlink())) for path in origins[:SOURCES]}
        for path in found:
            if re.fullmatch(_NEW, path.name) and _is_abandoned(path):
                path.unlink()
            elif re.fullmatch(_INDEX, path.name) and path.name not in current:
                _discard(path)


def _name(origin: str, text: str) -> str:
    """Return the name of the index that a link with this text points to."""
    return f"{origin}.{text[:_TOKEN_LENGTH]}"


def _links(source: Path, names: Sequence[str]) -> list[tuple[str, Path]]:
    """Read every file, and return the links that OpenSSL needs.

    Raises:
        ConfigError: a file is unusable.
        OSError: OpenSSL would read a file differently, or there would be too many links.
    """
    from tlsify.tls.certificates import is_read_so, name_hashes  # noqa: PLC0415 - rarely needed

    held: dict[str, dict[str, int]] = {}
    contents = read_files(source, [source / name for name in names], TRUST_ANCHORS)
    for name, (path, pem) in zip(names, contents, strict=True):
        found = read_pem(pem, str(path))
        try:
            held[name] = name_hashes(found)
        except ValueError as exc:
            raise malformed(str(path)) from exc
        if not is_read_so(pem, found):
            raise OSError(errno.EINVAL, "OpenSSL would not read every certificate of", str(path))
    links: list[tuple[str, Path]] = []
    limit = _LINKS_PER_CERTIFICATE * sum(map(len, held.values()))
    for number, files in choose(held).items():
        links += ((f"{number:08x}.{n}", source / name) for n, name in enumerate(files))
        if len(links) > limit:
            raise OSError(errno.EMLINK, "too many files share names", str(source))
    return links


def choose(held: dict[str, dict[str, int]]) -> dict[int, tuple[str, ...]]:
    """Choose the files to read for each name.

    OpenSSL looks up a name only if it has no certificate of that name yet. So a file with one such
    certificate needs to be read together with all files that hold others of the same name.

    Args:
        held: for each file, the hash of each certificate's name, by the certificate's own hash.

    Returns:
        Files by hash of a name.
    """
    # The file to read each certificate from, by the hash of its name and its own. A file without
    # further certificates, such as a bundle of all others, is of no use.
    homes: dict[int, dict[str, str]] = {}
    for name in sorted(held, key=lambda name: len(held[name])):
        for digest, number in held[name].items():
            homes.setdefault(number, {}).setdefault(digest, name)
    complete: dict[tuple[str, ...], tuple[str, ...]] = {}
    chosen = {}
    for number, home in homes.items():
        files = tuple(dict.fromkeys(home.values()))
        if files not in complete:
            complete[files] = _complete(files, held, homes)
        chosen[number] = complete[files]
    return chosen


def _complete(
    files: tuple[str, ...], held: dict[str, dict[str, int]], homes: dict[int, dict[str, str]]
) -> tuple[str, ...]:
    """Add the files with further certificates of the same names."""
    while True:
        read = {digest for file in files for digest in held[file]}
        numbers = {number for file in files for number in held[file].values()}
        missing = [homes[n][digest] for n in numbers for digest in homes[n].keys() - read]
        if not missing:
            return files
        files = tuple(dict.fromkeys((*files, *sorted(missing))))


def default_cache() -> Path:
    """Return the folder for indexes in the user's cache; create its parents.

    Raises:
        OSError: there is no such cache, or another user could change it.
    """
    if has_foreign_rights():
        raise PermissionError(errno.EPERM, "this process runs with another user's rights")
    shared = stat.S_IWGRP | stat.S_IWOTH
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        home = os.environ.get("HOME")
        if not home:
            raise FileNotFoundError(errno.ENOENT, "neither XDG_CACHE_HOME nor HOME is set")
        _check_own(Path(home), Path(home).stat(), shared)
        base = Path(home, ".cache")
    make_private(base)
    _check_own(base, base.stat(), shared)  # which may well be a link
    _make_own(base / "tlsify", shared)
    return base / "tlsify" / "trust"


def _make_own(folder: Path, forbidden: int) -> None:
    make_private(folder)
    _check_own(folder, folder.lstat(), forbidden)


def _check_own(folder: Path, state: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISDIR(state.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
    if not is_own(state, forbidden):
        raise PermissionError(errno.EACCES, "not a private folder", str(folder))


def _discard(folder: Path) -> None:
    """Remove an unused index."""
    with contextlib.suppress(OSError):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if _is_abandoned(folder):
                _empty(folder)
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty(folder)
        finally:
            os.close(lock)


def _empty(folder: Path) -> None:
    """Remove an index with its links, and its lock last, which shows that removal goes on."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _LOCK):
            path.unlink()
        folder.rmdir()


def _is_abandoned(path: Path) -> bool:
    return path.lstat().st_mtime < time.time() - _ABANDONED
