"""A server's certificates in files: a folder of them, what is amiss, whether one has changed."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tlsify import ocsp
from tlsify.config import KeyPair
from tlsify.credentials import read_file, unreadable
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# What certbot calls them, in a folder for each certificate.
_CERTBOT = ("fullchain.pem", "privkey.pem")
_CHAIN_SUFFIXES = (".pem", ".crt")
_DEFAULT = "default"
_DEPTH = 2  # a folder, and the folders in it

State: TypeAlias = "tuple[str, int, int, int, int] | str"


class Files(NamedTuple):
    """Where one key pair is.

    Attributes:
        name: for messages.
        chain: PEM, leaf first.
        key: PEM; the same file, if both are in it.
        ocsp: DER, if there is a response.
    """

    name: str
    chain: Path
    key: Path
    ocsp: Path | None = None

    def load(self) -> KeyPair:
        """Read them.

        Raises:
            ConfigError: one of them is unusable; the message names it.
        """
        try:
            pair = KeyPair.load(self.chain, self.key)
        except ConfigError as exc:
            named = str(exc) if str(self.chain) in str(exc) else f"{self.chain}: {exc}"
            raise ConfigError(named, hint=exc.hint) from exc
        return pair if self.ocsp is None else with_ocsp(pair, self.ocsp)

    @property
    def open_to_all(self) -> bool:
        """Whether every user of this host may read the key."""
        try:
            return bool(self.key.stat().st_mode & stat.S_IROTH)
        except OSError:
            return False


def with_ocsp(pair: KeyPair, path: Path) -> KeyPair:
    """Have an OCSP response stapled; whether it is fit to be is for `KeyPair.staple` to tell.

    Raises:
        ConfigError: the file cannot be read, or holds no response.
    """
    return KeyPair(pair.chain, pair.key, ocsp.load(path))


def find(folder: Path) -> list[Files]:
    """Find the key pairs of a folder, the one to be the default first.

    There may be NAME.pem, with NAME.key or the key in it; NAME.crt with NAME.key; and folders NAME
    with certbot's fullchain.pem and privkey.pem. NAME.ocsp beside any of them is its OCSP response.
    The default is the one called "default", or else the first by name. What begins with a dot, and
    what has another suffix, is none of them.

    Raises:
        ConfigError: the folder is unreadable, or there is none in it, or half of one.
    """
    try:
        inside = sorted(folder.iterdir())
        found = [files for path in inside for files in _of(path)]
    except OSError as exc:
        raise unreadable(folder, "certificates", exc) from exc
    if not found:
        raise ConfigError(
            f"no certificate in {folder}",
            hint="it needs NAME.pem, NAME.crt and NAME.key, or NAME/fullchain.pem and privkey.pem",
        )
    names = [files.name for files in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"more than one certificate called {min(twice)} in {folder}", hint="rename one of them"
        )
    return sorted(found, key=lambda files: files.name != _DEFAULT)


def _of(path: Path) -> Iterator[Files]:
    if path.name.startswith("."):
        return
    if path.is_dir():
        chain, key = (path / name for name in _CERTBOT)
        if not chain.exists():
            return
        name = path.name
    elif path.suffix in _CHAIN_SUFFIXES:
        chain, key, name = path, path.with_suffix(".key"), path.stem
        if not key.exists() and b"PRIVATE KEY-----" in read_file(path, "certificate"):
            key = path
    else:
        return
    response = path.parent / f"{name}.ocsp"
    yield Files(name, chain, key, response if response.exists() else None)


def amiss(pair: KeyPair) -> list[str]:
    """Say what clients will hold against a certificate, or miss; none of it keeps it from use."""
    leaf, now = pair.chain[0], datetime.now(UTC)
    found = []
    if pair.not_after < now:
        found.append(f"the certificate ended on {pair.not_after:%Y-%m-%d %H:%M:%S} UTC")
    if leaf.not_valid_before_utc > now:
        begin = leaf.not_valid_before_utc
        found.append(f"the certificate begins on {begin:%Y-%m-%d %H:%M:%S} UTC")
    objection = None if pair.ocsp is None else ocsp.objection(pair.ocsp, leaf, now)
    if objection is not None:
        found.append(f"{objection}: it is not stapled")
    if pair.staple() is None and ocsp.demanded(leaf):
        found.append("the certificate demands an OCSP response, and none is stapled")
    return found


def fingerprint(paths: Iterable[Path]) -> tuple[State, ...]:
    """Tell files, and what is in folders, from what they are once they have changed.

    Take it before the files are read: what changes meanwhile then shows the next time.
    """
    return tuple(state for path in paths for state in _states(path, _DEPTH))


def _states(path: Path, depth: int) -> Iterator[State]:
    try:
        state = path.stat()
        if not stat.S_ISDIR(state.st_mode):
            yield str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
        elif depth:
            for name in sorted(os.listdir(path)):  # noqa: PTH208 - it makes a list as well
                if not name.startswith("."):
                    yield from _states(path / name, depth - 1)
    except OSError:
        yield str(path)
