"""A server's certificates in files: folders, warnings, detection of changes."""

from __future__ import annotations

import stat
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from cryptography import x509

from tlsify.credentials import ocsp, traefik
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.pem import read_pem
from tlsify.credentials.reading import CERTIFICATE, PRIVATE_KEY, read_file, unreadable
from tlsify.errors import ConfigError
from tlsify.system import whole_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

_CALLED_AFTER_IT, _ECC = "*.key", "_ecc"
# Certificate and key, in a folder for each certificate, as tools call them.
_LAYOUTS = {
    "fullchain.pem": "privkey.pem",  # certbot
    "fullchain.cer": _CALLED_AFTER_IT,  # acme.sh, whose folder is called NAME or NAME_ecc
    "tls.crt": "tls.key",  # cert-manager, and all Secrets of Kubernetes
    "certificate.crt": "privatekey.key",  # Traefik's, as traefik-certs-dumper writes them
}
# Two folders side by side, as traefik-certs-dumper makes them unless told otherwise.
_CERTS, _PRIVATE = "certs", "private"
_TRAEFIKS = "acme.json"
_CHAIN_SUFFIXES = (".pem", ".crt")
# Of all files that `find` may take for one of a certificate's.
SUFFIXES = frozenset({*_CHAIN_SUFFIXES, ".cer", ".key", ".ocsp", ".json"})
_DEFAULT = "default"
_DEPTH = 2  # a folder, and the folders in it

State: TypeAlias = "tuple[str, int, int, int, int] | str"


class Files(NamedTuple):
    """Files of one key pair.

    Attributes:
        name: for messages.
        chain: PEM, leaf first.
        key: PEM; the same file, if both are in it.
        ocsp: DER, if there is a response.
        is_listed: whether they were found in a folder, in which nothing may wait for a pipe.
    """

    name: str
    chain: Path
    key: Path
    ocsp: Path | None = None
    is_listed: bool = False

    def load(self) -> KeyPair:
        """Read them.

        Raises:
            ConfigError: one of them is unusable; the message names it.
        """
        pair = KeyPair.from_pem(*self.read(), self.chain, self.key)
        return pair if self.ocsp is None else with_ocsp(pair, self.ocsp, waits=not self.is_listed)

    def read(self) -> tuple[bytes, bytes]:
        """Return chain and key, in PEM.

        Raises:
            ConfigError: one of the files cannot be read.
        """
        waits = not self.is_listed
        return self.read_chain(), read_file(self.key, PRIVATE_KEY, waits=waits)

    def read_chain(self) -> bytes:
        """Return the chain alone; raises as `read`."""
        return read_file(self.chain, CERTIFICATE, waits=not self.is_listed)

    @property
    def open_to_all(self) -> bool:
        """Whether every user of this host may read the key."""
        try:
            return bool(self.key.stat().st_mode & stat.S_IROTH)
        except OSError:
            return False


class _Traefiks(Files):
    """One of the certificates in a file of Traefik's, which is read once for all of them."""

    _pair: tuple[bytes, bytes]
    _state: tuple[State, ...]

    @classmethod
    def all_of(cls, path: Path) -> Iterator[Self]:
        """Return each of a file.

        Raises:
            ConfigError: as `traefik.read`.
        """
        state = fingerprint([path])
        for name, pair in traefik.read(path).items():
            found = cls(name, path, path, is_listed=True)
            found._pair, found._state = pair, state
            yield found

    def read(self) -> tuple[bytes, bytes]:
        """Return chain and key, in PEM.

        Raises:
            ConfigError: Traefik has changed the file meanwhile, and it is not in there any more.
        """
        if fingerprint([self.chain]) == self._state:
            return self._pair
        try:
            return traefik.read(self.chain)[self.name]
        except KeyError as exc:
            raise ConfigError(f"{self.chain}: {self.name} is gone", hint="try again") from exc


def with_ocsp(pair: KeyPair, path: Path, *, waits: bool = True) -> KeyPair:
    """Return the key pair with an OCSP response; `KeyPair.staple` checks its validity.

    ``waits`` is `read_file`'s.

    Raises:
        ConfigError: the file cannot be read, or holds no response.
    """
    return KeyPair(pair.chain, pair.key, ocsp.load(path, waits=waits))


class Found(NamedTuple):
    """Contents of a folder of certificates.

    Attributes:
        files: key pairs, the one to be the default first.
        left: certificates that were left alone, and why, for messages.
    """

    files: list[Files]
    left: dict[Path, str]


def find(folder: Path) -> Found:
    """Find the key pairs of a folder.

    There may be NAME.pem, with NAME.key, mkcert's NAME-key.pem, or the key in it; NAME.crt with
    NAME.key; folders NAME as tools make them for one certificate, of which the folder itself may be
    one; and Traefik's acme.json. NAME.ocsp beside any of them is its OCSP response. The default is
    the one called "default", or else the first by name. What begins with a dot, and what has
    another suffix, is none of them. A certificate without a key is left alone if it is an
    authority's, or if it is there with its key as well: tools leave such files beside the others.

    Raises:
        ConfigError: the folder is unreadable, there is none in it, or two have one name; also,
            where some have no key, that one of all the files holds no certificate.
    """
    try:
        found = [files for name in whole_files.names(folder) for files in _of(folder / name)]
        keys = {files.key for files in found if files.key != files.chain}
        found = [files for files in found if files.chain not in keys]
        left = _leave(found)
    except OSError as exc:
        raise unreadable(folder, "certificates", exc) from exc
    found = [files for files in found if files.chain not in left]
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
    return Found(sorted(found, key=lambda files: files.name != _DEFAULT), left)


def _of(path: Path) -> Iterator[Files]:
    """Find the key pair of one entry, by its name alone."""
    chain, name = path, path.stem
    if path.name.startswith("."):
        return
    if path.is_dir():
        files = (*_LAYOUTS, f"{path.name}.crt")  # the last is Caddy's
        known = next((file for file in files if (path / file).exists()), None)
        if known is None:
            return
        chain, name = path / known, path.name
    elif path.name == _TRAEFIKS:
        yield from _Traefiks.all_of(path)
        return
    elif path.suffix not in _CHAIN_SUFFIXES and path.name not in _LAYOUTS:
        return
    response = path.parent / f"{name}.ocsp"
    staple = response if response.exists() else None
    yield Files(name, chain, _key_of(chain), staple, is_listed=True)


def _key_of(chain: Path) -> Path:
    """Find a certificate's key; if there is none, the file that it should be in."""
    pattern = _LAYOUTS.get(chain.name, "")
    if pattern == _CALLED_AFTER_IT:
        folder = chain.parent
        inside = [folder / name for name in whole_files.names(folder) if name.endswith(".key")]
        called = chain.with_name(f"{chain.parent.name.removesuffix(_ECC)}.key")
        return inside[0] if len(inside) == 1 and called not in inside else called
    usual = chain.with_name(pattern) if pattern else chain.with_suffix(".key")
    places = [usual, chain.with_suffix(".key"), chain.with_name(f"{chain.stem}-key.pem")]
    if chain.parent.name == _CERTS:
        places.append(chain.parent.with_name(_PRIVATE) / chain.with_suffix(".key").name)
    for path in places:
        if path.exists():
            return path
    return chain if b"PRIVATE KEY-----" in read_file(chain, CERTIFICATE, waits=False) else usual


def _leave(found: list[Files]) -> dict[Path, str]:
    """Return which certificates are not meant to be shown, and why."""
    names = Counter(files.name for files in found)
    odd = {files for files in found if names[files.name] > 1 or not files.key.exists()}
    left: dict[Path, str] = {}
    shown = {_first(files): files.chain for files in found if odd and files not in odd}
    for files in sorted(odd, key=lambda files: (not files.key.exists(), files)):
        first = _first(files)
        if first in shown:
            left[files.chain] = f"the same certificate as in {shown[first]}"
        elif files.key.exists():
            shown[first] = files.chain
        elif _is_authority(first):
            left[files.chain] = "an authority's certificate, without a key"
    return left


def _first(files: Files) -> bytes:
    chain = files.read()[0] if files.key.exists() else files.read_chain()
    return read_pem(chain, str(files.chain))[0]


def _is_authority(der: bytes) -> bool:
    try:
        extensions = x509.load_der_x509_certificate(der).extensions
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (
        ValueError,
        x509.InvalidVersion,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        return False


def amiss(pair: KeyPair) -> list[str]:
    """Return warnings about a certificate that clients may refuse; it can be used all the same."""
    leaf, now = pair.chain[0], datetime.now(UTC)
    found = []
    if pair.not_after < now:
        found.append(f"the certificate expired on {pair.not_after:%Y-%m-%d %H:%M:%S} UTC")
    if leaf.not_valid_before_utc > now:
        begin = leaf.not_valid_before_utc
        found.append(f"the certificate is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC")
    objection = None if pair.ocsp is None else ocsp.objection(pair.ocsp, leaf, now)
    if objection is not None:
        found.append(f"{objection}: it is not stapled")
    if pair.staple() is None and ocsp.demanded(leaf):
        found.append("the certificate demands an OCSP response, and none is stapled")
    return found


def fingerprint(
    paths: Iterable[Path], suffixes: Collection[str] | None = None
) -> tuple[State, ...]:
    """Return a fingerprint of files and folders that changes with them.

    Take it before the files are read: what changes meanwhile then shows the next time.

    Args:
        paths: of files and folders.
        suffixes: of the files that count in folders; None for all of them.
    """
    return tuple(state for path in paths for state in _states(path, _DEPTH, suffixes))


def watched(folder: Path) -> list[Path]:
    """Return the folders that `find` looks into for the contents of one."""
    return [folder, *([folder.with_name(_PRIVATE)] if folder.name == _CERTS else [])]


def _states(path: Path, depth: int, suffixes: Collection[str] | None) -> Iterator[State]:
    try:
        state = path.stat()
        if not stat.S_ISDIR(state.st_mode):
            yield str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
        elif depth:
            for name in whole_files.names(path):
                inside = path / name
                counts = suffixes is None or inside.suffix in suffixes or inside.is_dir()
                if counts and not name.startswith("."):
                    yield from _states(inside, depth - 1, suffixes)
    except OSError:
        yield str(path)
