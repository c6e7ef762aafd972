"""The programs that the host's tests and the benchmark talk to: Debian 13's, run where they lie."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from typing import TYPE_CHECKING

from lane import apt, cache, image, relocate
from lane.cache import LaneError

if TYPE_CHECKING:
    from pathlib import Path

# What guests have, and what is tested on the host only.
SELECTION = apt.Selection(
    image.SELECTION.suites,
    (
        *image.SELECTION.packages,
        *("lighttpd", "vsftpd", "inspircd", "slapd", "prosody", "postgresql-17"),
        *("mariadb-server-core", "dovecot-pop3d", "dovecot-lmtpd", "dovecot-managesieved"),
        *("tcl8.6", "zsh", "man-db", "mandoc", "systemd", "gcc", "libc6-dev", "patchelf"),
    ),
)
IN_GUESTS = {
    **{name: f"usr/bin/{name}" for name in ("bash", "busybox", "curl", "fetchmail", "git", "ii")},
    **{name: f"usr/bin/{name}" for name in ("gnutls-cli", "gnutls-serv", "ncat", "openssl")},
    **{name: f"usr/bin/{name}" for name in ("perl", "socat", "ssh", "ssh-keygen", "strace")},
    **{name: f"usr/bin/{name}" for name in ("stunnel4", "swaks")},
    **{name: f"usr/sbin/{name}" for name in ("dovecot", "exim4", "haproxy", "hitch", "nginx")},
    **{name: f"usr/sbin/{name}" for name in ("ngircd", "sshd")},
    "nc": "usr/bin/nc.openbsd",
}
ON_THE_HOST = {
    **{name: f"usr/bin/{name}" for name in ("man", "mandoc", "prosody", "systemctl", "zsh")},
    **{name: f"usr/bin/{name}" for name in ("systemd-analyze", "systemd-socket-activate")},
    **{name: f"usr/sbin/{name}" for name in ("inspircd", "lighttpd", "mariadbd", "slapd")},
    **{name: f"usr/lib/postgresql/17/bin/{name}" for name in ("initdb", "postgres")},
    "vsftpd": "usr/sbin/vsftpd",
    "tclsh": "usr/bin/tclsh8.6",
    "gcc": "usr/bin/gcc",
}
PROGRAMS = IN_GUESTS | ON_THE_HOST
# A script, since the compiler proper has to be run by the tree's loader (see relocate.py), and what
# it makes is to run with the libraries that it was made with.
_GCC = """\
#!/bin/sh
loader={tree}/lib64/ld-linux-x86-64.so.2 libraries={tree}/usr/lib/x86_64-linux-gnu
exec {tree}/usr/bin/gcc -wrapper $loader,--library-path,$libraries --sysroot={tree} \\
    -B{tree}/usr/bin/ -Wl,--dynamic-linker=$loader -Wl,-rpath=$libraries "$@"
"""
# For PostgreSQL's just-in-time compiler, which no small query sets to work: 130 MB.
_UNUSED = "usr/lib/x86_64-linux-gnu/libLLVM*"


@functools.cache
def tree() -> Path:
    """Return the tree, fetched and made runnable if it is not there.

    Raises:
        LaneError: it cannot be had on this machine.
    """
    if platform.machine() != "x86_64":
        raise LaneError(f"the peers are for x86_64, not {platform.machine()}", "use another host")
    debs = apt.select("peers", SELECTION)
    # The tree's programs know where it is.
    parts = (debs, PROGRAMS, _GCC, image.UNUSED, str(cache.home()))
    key = cache.digest("peers 1", cache.file_digest(relocate.SHIM), *parts)
    place = cache.home() / "peers" / key
    return cache.build("peers", key, "fetching the tests' peers", lambda f: _make(f, place, debs))


def _make(folder: Path, place: Path, debs: list[str]) -> None:
    apt.unpack(SELECTION, debs, folder)
    for unused in image.UNUSED:
        shutil.rmtree(folder / unused, ignore_errors=True)
    for library in folder.glob(_UNUSED):
        library.unlink()
    # Where servers find the users that they insist on.
    for file in ("etc/passwd", "etc/group"):
        (folder / file).write_text(image.FILES[file])
    relocate.relocate(folder, place, compiler=folder)
    programs = folder / "programs"
    programs.mkdir()
    for name, path in PROGRAMS.items():
        if not (folder / path).exists():
            raise LaneError(f"Debian's packages have no {path}", "name another in vm/lane/peers.py")
        (programs / name).symlink_to(f"../{path}")
    (programs / "gcc").unlink()
    (programs / "gcc").write_text(_GCC.format(tree=place))
    (programs / "gcc").chmod(0o755)


def programs() -> Path:
    """Return the folder with the peers' programs, and none that a host has anyway.

    Raises:
        LaneError: it cannot be had on this machine.
    """
    return tree() / "programs"


def environment() -> dict[str, str]:
    """Return what has to be in the environment of whoever is to find these programs first.

    Raises:
        LaneError: they cannot be had on this machine.
    """
    first, path = str(programs()), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] == first:
        return {"PATH": path}
    return {"PATH": f"{first}{os.pathsep}{path}"}
