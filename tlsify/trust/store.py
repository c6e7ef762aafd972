"""Trust anchors: a folder of PEM files, indexed once, read lazily; a file; the system's store."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from typing import TYPE_CHECKING

from tlsify.credentials.anchors import Lookup, TrustAnchors
from tlsify.credentials.reading import TRUST_ANCHORS, unreadable
from tlsify.credentials.system_store import BUNDLES, FOLDERS
from tlsify.errors import ConfigError
from tlsify.system.process import has_foreign_rights
from tlsify.system.whole_files import too_large

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    AnyPath: TypeAlias = Path | str

# The search for the system's store has paths as text: pathlib's import takes several times as long.

_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
_FEW = 16  # links in such a folder that may be local additions, and not the whole store

_log = logging.getLogger("tlsify")


def load(path: Path, cache: Path | None = None) -> TrustAnchors:
    """Find the trust anchors in a PEM file, or in the ``*.pem`` and ``*.crt`` files of a folder.

    A folder that is new, or has changed, is read as a whole, and each file in it must be valid.
    Afterwards a handshake reads only the files that it needs, through an index in the cache. The
    result is valid within this process: a file that is added later is not seen, and one that is
    removed is no longer trusted unless it was read before. A process that gives up the right to
    read the folder or the cache needs `TrustAnchors.load`.

    Args:
        path: the file or folder.
        cache: private folder for indexes, mode 0700, created if it does not exist; None takes
            ``tlsify/trust`` in ``$XDG_CACHE_HOME``. Without a cache every file is read each time.

    Raises:
        ConfigError: it is unreadable, holds no certificate, or a file in it is none.
    """
    try:
        source = path.resolve(strict=True)
        mode = source.stat().st_mode
    except OSError as exc:
        raise unreadable(path, "trust anchors", exc) from exc
    if not stat.S_ISDIR(mode):
        return TrustAnchors.load(path)
    return _load_folder(path, source, cache)


def _load_folder(path: Path, source: Path, cache: Path | None) -> TrustAnchors:
    from tlsify.trust.index import Cache, default_cache, survey  # noqa: PLC0415 - for folders only

    try:
        found = survey(source)
    except OSError as exc:
        raise unreadable(path, "trust anchors", exc) from exc
    try:
        index = Cache(default_cache() if cache is None else cache).index(source, found)
    except OSError as exc:
        _log.debug("trust anchors in %s are read without an index: %s", path, exc)
        return TrustAnchors.load(path)
    return TrustAnchors(
        lookup=Lookup((), (index.folder,), chosen=True, content=found.state, lease=index)
    )


def system(environment: Mapping[str, str] | None = None) -> TrustAnchors:
    """Find the system's store, which is then read as lazily as the distribution's layout allows.

    Args:
        environment: ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` in it replace the store, as they do for
            OpenSSL; None takes this process's, unless it runs with another user's rights.

    Raises:
        ConfigError: there is no store, or its file is too large.
    """
    if environment is None:
        environment = {} if has_foreign_rights() else os.environ
    named = environment.get("SSL_CERT_FILE", ""), environment.get("SSL_CERT_DIR", "")
    if any(named):
        files: Sequence[AnyPath] = [*filter(os.path.isfile, named[:1])]
        folders: Sequence[AnyPath] = [*filter(os.path.isdir, named[1].split(":"))]
        hint = "SSL_CERT_FILE and SSL_CERT_DIR lead nowhere: correct or unset them"
    else:
        files, folders = find_store(BUNDLES, FOLDERS)
        hint = "install ca-certificates, or name the authority to trust with --ca"
    if not files and not folders:
        raise ConfigError("this system has no store of trust anchors", hint=hint)
    for file in files:
        _check_size(file)  # OpenSSL reads it whole
    return TrustAnchors(lookup=Lookup(tuple(files), tuple(folders), chosen=False))


def _check_size(file: AnyPath) -> None:
    try:
        if os.path.getsize(file) > TRUST_ANCHORS.most:
            raise too_large(TRUST_ANCHORS.most)
    except OSError as exc:
        raise unreadable(file, TRUST_ANCHORS.name, exc) from exc


def read_later(anchors: TrustAnchors) -> Sequence[str]:
    """Return the folders in which OpenSSL reads anchors on demand, to keep them accessible."""
    if anchors.lookup is None:
        return []
    folders = {os.path.dirname(os.path.realpath(file)) for file in anchors.lookup.files}
    for folder in anchors.lookup.folders:
        folders.add(str(folder))
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            # Mostly links: of an index to its source, of a system's store to its packages.
            folders |= {os.path.dirname(os.path.realpath(entry)) for entry in entries}
    return sorted(folders)


def find_store(
    bundles: Iterable[AnyPath], folders: Iterable[AnyPath]
) -> tuple[Sequence[AnyPath], Sequence[AnyPath]]:
    """Choose from the files and folders that a distribution may have."""
    bundle = next(filter(os.path.isfile, bundles), None)
    for folder in folders:
        links = _count_hashed(folder)
        if links:
            # A certificate may have been added to the bundle alone.
            newer = bundle is not None and _changed(bundle) > _changed(folder)
            complete = links > _FEW and not newer
            return [] if complete or bundle is None else [bundle], [folder]
    return [] if bundle is None else [bundle], []


def _count_hashed(folder: AnyPath) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(1 for entry in entries if _HASHED.fullmatch(entry.name))
    except OSError:
        return 0


def _changed(path: AnyPath) -> int:
    return os.stat(path).st_mtime_ns
