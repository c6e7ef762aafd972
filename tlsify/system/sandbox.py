"""Sandbox of this process: Landlock, and seccomp."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import struct
import sys
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from tlsify.errors import ConfigError, said
from tlsify.system import libc
from tlsify.system.forbidden_calls import forbid
from tlsify.system.process import forgo_rights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# asm-generic/unistd.h: the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_RULESET, _PATH_RULE, _PORT_RULE = struct.Struct("=QQQ"), struct.Struct("=Qi"), struct.Struct("=QQ")
_CONNECT_TCP = 1 << 1
# linux/landlock.h LANDLOCK_ACCESS_FS_*, as plain numbers: the class of flags takes long to make.
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE = 1 << 1, 1 << 2, 1 << 3, 1 << 5
_MAKE_REG, _MAKE_SOCK = 1 << 8, 1 << 9
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _MAKE_REG | _MAKE_SOCK | _REMOVE_FILE
_OF_FILES = _READ_FILE | _WRITE_FILE  # rights that a rule for a file may have
# By the kernel's ABI: the size of the ruleset, and the rights to files.
_SIZES = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_FILE_RIGHTS, _BOTH_NET_RIGHTS = 16, 3
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1
# Our own modules, which an editable installation finds by other ways; pathlib is slow to import.
_OURS = os.path.dirname(os.path.dirname(__file__))
# Paths that the interpreter may need at any time, besides its modules and their libraries.
_ALWAYS = (
    *("/usr/lib", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache"),
    *("/etc/localtime", "/usr/share/zoneinfo", "/proc"),
)
_NULL = "/dev/null"
_RESOLVER = "/etc/resolv.conf"
HINT = 'have "landlock" among the LSMs (lsm=), or start with --sandbox=auto'


class Sandboxing(Enum):
    """Whether processes that execute no program give up unneeded rights."""

    OFF = "off"
    AUTO = "auto"
    REQUIRE = "require"


class Reach(NamedTuple):
    """Resources that a process needs, besides its descriptors, the interpreter and its libraries.

    Attributes:
        read: files and folders that it reads, with all that is beneath these.
        write: folders in which it makes, changes and removes files and sockets, too.
        ports: of TCP, to which it connects.
        abstract: whether it connects to abstract sockets of others.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    abstract: bool = False


class Restraint(NamedTuple):
    """Rights that a process has given up.

    Attributes:
        landlock: the ABI by which it was confined; 0 if it was not.
        seccomp: whether system calls are forbidden.
    """

    landlock: int = 0
    seccomp: bool = False


_log = logging.getLogger("tlsify")
_in_force = Restraint()


def in_force() -> Restraint:
    """Return the rights that this process has given up."""
    return _in_force


def confine(reach: Reach, sandboxing: Sandboxing) -> int:
    """Confine this thread, and all its threads and children, to the given resources.

    It has to have renounced (`renounce`). There is no way back. Descriptors that are open stay as
    they are, and so do threads that run. Files need Linux 5.13, ports 6.7, signals to others and
    their abstract sockets 6.12: what a kernel does not know it does not forbid. Paths that do not
    exist are passed over.

    Args:
        reach: files and ports still needed.
        sandboxing: whether to do it, and what to do where it cannot be done.

    Returns:
        The ABI that is in force; 0 if none is.

    Raises:
        ConfigError: it is required, and the kernel has none.

    Source: Documentation/userspace-api/landlock.rst.
    """
    global _in_force
    if sandboxing is Sandboxing.OFF:
        return 0
    try:
        version = abi()
        _confine(reach, version)
    except OSError as exc:
        why = f"no sandbox: landlock: {said(exc)}"
        if sandboxing is Sandboxing.REQUIRE:
            raise ConfigError(why, hint=HINT) from exc
        _log.info("%s", why)
        return 0
    _in_force = _in_force._replace(landlock=version)
    return version


def renounce(but: Collection[str] = ()) -> None:
    """Give up executing programs, and gaining rights by it, as far as the kernel supports it.

    System calls that our processes do not need are gone, too (`forbidden_calls`).

    Args:
        but: names of such calls that this process needs.

    Raises:
        OSError: the kernel refuses the latter.
    """
    global _in_force
    forgo_rights()
    try:
        forbid(but)
    except OSError as exc:
        _log.info("no filter of system calls: %s", exc)
    else:
        _in_force = _in_force._replace(seccomp=True)


def abi() -> int:
    """Return which version of Landlock the kernel has.

    Raises:
        OSError: none (ENOSYS), or it is switched off (EOPNOTSUPP).
    """
    return _call(_CREATE_RULESET, None, 0, _VERSION)


def _confine(reach: Reach, version: int) -> None:
    rights = (1 << _FILE_RIGHTS.get(version, _ALL_FILE_RIGHTS)) - 1
    scopes = _SCOPE_SIGNAL | (0 if reach.abstract else _SCOPE_ABSTRACT_UNIX_SOCKET)
    attributes = _RULESET.pack(rights, _BOTH_NET_RIGHTS, scopes)
    size = _SIZES.get(version, _RULESET.size)
    ruleset = _call(_CREATE_RULESET, attributes, size, 0)
    try:
        for path, wanted in _paths(reach):
            _allow_path(ruleset, path, wanted & rights)
        if size > _SIZES[1]:
            for port in reach.ports:
                rule = _PORT_RULE.pack(_CONNECT_TCP, port)
                _call(_ADD_RULE, ruleset, _NET_PORT, rule, 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _paths(reach: Reach) -> Iterator[tuple[str, int]]:
    modules = {sys.prefix, sys.base_prefix, _OURS, *filter(os.path.isabs, sys.path)}
    for path in (*modules, *_ALWAYS, *reach.read):
        yield path, _READ
    for path in reach.write:
        yield path, _WRITE
    yield _NULL, _READ | _WRITE_FILE


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                rights &= _OF_FILES
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, _PATH_RULE.pack(rights, descriptor), 0)
        finally:
            os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    return libc.call("syscall", number, *arguments)


def resolvers() -> tuple[str, str]:
    """Return the folders that look-ups of names read.

    What resolvers read is a matter of the host's own, and may be replaced at any time; some of it
    lies where another program writes it (systemd-resolved, NetworkManager, resolvconf).
    """
    return os.path.dirname(_RESOLVER), os.path.dirname(os.path.realpath(_RESOLVER))


def refusal() -> str | None:
    """Return why there is no sandbox on this host; None if there is one."""
    try:
        abi()
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            return "Landlock is switched off"
        return "this kernel has no Landlock"
    return None
