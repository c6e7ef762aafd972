"""The system's trust anchors: where they are, and whether they are still the same."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import StrPath

# Where distributions keep their store: in one file, and in OpenSSL's own layout.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Alpine, Gentoo
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # the same, under its own name
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, OpenBSD
)
FOLDERS = ("/etc/ssl/certs", "/etc/pki/ca-trust/extracted/pem/directory-hash")
_ONE_MORE = "/etc/pki/tls/cacert.pem"  # which pyOpenSSL tries, too
# Names that OpenSSL looks for in a folder: certificates and revocation lists.
_HASHED = re.compile(r"[0-9a-f]{8}\.r?\d+")
_RANDOM = 32  # bytes


def state_of(files: Iterable[StrPath], folders: Iterable[StrPath]) -> bytes:
    """Look at files and at folders in OpenSSL's layout, which takes a millisecond, unread.

    Returns:
        Bytes, of which any change makes others; random ones for a folder that cannot be listed.
    """
    found = [(os.fspath(file), _stamp(file)) for file in files]
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                names = sorted(each.path for each in entries if _HASHED.fullmatch(each.name))
        except (FileNotFoundError, NotADirectoryError):
            names = []
        except OSError:
            return os.urandom(_RANDOM)
        found += ((name, _stamp(name)) for name in names)
    return repr(found).encode("ascii", "backslashreplace")


def state_of_default(file: str, folder: str) -> bytes:
    """Return the state of all that OpenSSL's default may consist of, as `state_of` does.

    Args:
        file: where this OpenSSL looks for a file.
        folder: likewise.
    """
    named = os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", "")
    return state_of((*BUNDLES, _ONE_MORE, file, named[0]), (*FOLDERS, folder, *named[1].split(":")))


def _stamp(path: StrPath) -> tuple[int, ...]:
    try:
        state = os.stat(path)
    except OSError:  # OpenSSL cannot open it, either
        return ()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
