"""Seccomp filter of a wrapped program: which system calls its supervisor is asked about."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tlsify.system import libc
from tlsify.system.bpf import IF_ANY_BIT, IF_EQUAL, LOAD, RETURN, UNLESS_BELOW, Program, assemble
from tlsify.system.forbidden_calls import ALLOW, ARCH, ARCHITECTURES, ERRNO, NUMBER, X32

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_Code: TypeAlias = "list[tuple[int, int, int, int]]"
_Table: TypeAlias = "Mapping[str, tuple[int | None, int | None]]"

_ASKED = (RETURN, 0, 0, 0x7FC00000)  # SECCOMP_RET_USER_NOTIF
_ALLOWED = (RETURN, 0, 0, ALLOW)
_EITHER = (_ASKED, _ALLOWED)
# The lower halves, on little-endian machines: descriptors and flags have no more.
_FIRST_ARGUMENT, _SECOND_ARGUMENT, _THIRD_ARGUMENT = 16, 24, 32
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
# Numbers on x86-64 and on aarch64.
_SECCOMP = (317, 277)
_ALWAYS: _Table = {
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200),
    "exit_group": (231, 94), "shutdown": (48, 210),
}  # fmt: skip
_OF_CONNECTIONS: _Table = {"close": (3, 57), "splice": (275, 76)}
# What may copy a connection's descriptor, or make a way to send it; some by their arguments.
# aarch64 has fewer of them.
_COPYING: _Table = {"fork": (57, None), "vfork": (58, None), "pidfd_getfd": (438, 438),
            "socketpair": (53, 199)}  # fmt: skip
# What may send a connection to another process. The program's own sockets have lower numbers.
_SENDING: _Table = {"sendmsg": (46, 211), "sendmmsg": (307, 269)}
_CLONE, _SOCKET, _FCNTL = {"clone": (56, 220)}, {"socket": (41, 198)}, {"fcntl": (72, 25)}
_COPYING_A_CONNECTION: _Table = {"dup": (32, 23), "dup2": (33, None), "dup3": (292, 24)}
_CLONE_FILES = 0x400
_F_DUPFD_CLOEXEC = 1030
READS: _Table = {
    "read": (0, 63), "readv": (19, 65), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "recvmmsg": (299, 243), "preadv2": (327, 286),
}  # fmt: skip
NAMES: _Table = {"getsockname": (51, 204), "getpeername": (52, 205)}
# It would send and receive without calls that a filter sees.
_IO_URING_SETUP = 425
# A filter sees no flags of it; C libraries go on with clone.
_CLONE3 = 435


_WHATEVER, _WHERE = (_ALWAYS, _COPYING), (_OF_CONNECTIONS, _COPYING_A_CONNECTION)


class Questions(NamedTuple):
    """Calls that the supervisor is asked about or not, as it needs them.

    Attributes:
        reads: from descriptors that may be connections.
        stdin: likewise from descriptor 0, where inetd's programs have their connection.
        names: the addresses of sockets.
    """

    reads: bool = True
    stdin: bool = False
    names: bool = False


def is_supported(machine: str) -> bool:
    """Return whether the numbers of an architecture's system calls are known."""
    return machine in ARCHITECTURES


def names(machine: str) -> dict[int, str]:
    """Return the names of the calls that the supervisor may be asked about, by number."""
    return {
        number: name
        for table in (*_WHATEVER, _SENDING, _CLONE, _SOCKET, *_WHERE, _FCNTL, READS, NAMES)
        for name, number in _numbers(machine, table)
    }


def build(machine: str, base: int, questions: Questions) -> bytes:
    """Write the filter.

    Args:
        machine: as ``uname -m`` has it; a supported one.
        base: descriptors from this number on may be connections.
        questions: which calls to ask about that need not always be.
    """
    refusal = (RETURN, 0, 0, ERRNO | errno.ENOSYS)
    rules: list[tuple[_Table, _Code]] = [
        *((table, [_ASKED]) for table in (*_WHATEVER, *([NAMES] if questions.names else []))),
        (_SENDING, _below(base, [_ASKED])),
        (_CLONE, [(LOAD, 0, 0, _FIRST_ARGUMENT), (IF_ANY_BIT, 1, 0, _CLONE_FILES), *_EITHER]),
        (_SOCKET, [(LOAD, 0, 0, _FIRST_ARGUMENT), (IF_EQUAL, 0, 1, socket.AF_UNIX), *_EITHER]),
        *((table, _from(base, [_ASKED])) for table in _WHERE),
        *(_reads(base, stdin=questions.stdin) if questions.reads else []),
        (
            _FCNTL,
            _from(
                base,
                [
                    (LOAD, 0, 0, _SECOND_ARGUMENT),
                    (IF_EQUAL, 1, 0, fcntl.F_DUPFD),
                    (IF_EQUAL, 0, 1, _F_DUPFD_CLOEXEC),
                    *_EITHER,
                ],
            ),
        ),
    ]
    return assemble(
        [
            (LOAD, 0, 0, ARCH),
            (IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
            refusal,
            (LOAD, 0, 0, NUMBER),
            (UNLESS_BELOW, 0, 1, X32),
            refusal,
            *_if_equal(_IO_URING_SETUP, [refusal]),
            *_if_equal(_CLONE3, [refusal]),
            *(
                each
                for table, then in rules
                for _, number in _numbers(machine, table)
                for each in _if_equal(number, then)
            ),
            _ALLOWED,
        ]
    )


def _numbers(machine: str, table: _Table) -> Iterable[tuple[str, int]]:
    """Return the calls of a table that an architecture has, with their numbers."""
    at = _column(machine)
    for name, numbers in table.items():
        if (number := numbers[at]) is not None:
            yield name, number


def _column(machine: str) -> int:
    return list(ARCHITECTURES).index(machine)


def _if_equal(number: int, then: _Code) -> _Code:
    """Do something for one call; it has to return."""
    return [(IF_EQUAL, 0, len(then), number), *then]


def _from(base: int, then: _Code) -> _Code:
    """Do something for descriptors from a number on; others are the program's own."""
    return [
        (LOAD, 0, 0, _FIRST_ARGUMENT),
        (UNLESS_BELOW, 1, 0, base),
        _ALLOWED,
        *then,
    ]


def _reads(base: int, *, stdin: bool) -> list[tuple[_Table, _Code]]:
    if not stdin:
        return [(READS, _from(base, [_ASKED]))]
    others = {name: numbers for name, numbers in READS.items() if name != "read"}
    beginning = (LOAD, 0, 0, _FIRST_ARGUMENT)
    return [
        (others, [beginning, (UNLESS_BELOW, 1, 0, base), (IF_EQUAL, 0, 1, 0), *_EITHER]),
        # Shells read a file or pipe byte by byte: much slower, if each were asked about.
        (
            {"read": READS["read"]},
            [
                beginning,
                (UNLESS_BELOW, 3, 0, base),
                (IF_EQUAL, 0, 3, 0),
                (LOAD, 0, 0, _THIRD_ARGUMENT),
                (IF_EQUAL, 1, 0, 1),
                *_EITHER,
            ],
        ),
    ]


def _below(base: int, then: _Code) -> _Code:
    """Do something for descriptors below a number."""
    return [
        (LOAD, 0, 0, _FIRST_ARGUMENT),
        (UNLESS_BELOW, 0, 1, base),
        _ALLOWED,
        *then,
    ]


def install(machine: str, code: bytes) -> int:
    """Put this process, a thread of its own, under a filter; ``no_new_privs`` has to be set.

    Returns:
        The descriptor on which its supervisor is asked; close-on-exec.

    Raises:
        OSError: EBUSY, there is a supervisor already, as in a wrapped program; EINVAL or ENOSYS,
            the kernel has no such filters.

    Source: seccomp(2), seccomp_unotify(2).
    """
    program = ctypes.byref(Program.of(code))
    number = _SECCOMP[_column(machine)]
    return libc.call("syscall", number, _SET_MODE_FILTER, _NEW_LISTENER, program)
