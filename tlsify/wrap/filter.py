"""Seccomp filter of a wrapped program: which system calls its supervisor is asked about."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

from tlsify.system import libc
from tlsify.system.bpf import IF_EQUAL, LOAD, RETURN, UNLESS_BELOW, Program, assemble
from tlsify.system.forbidden_calls import ALLOW, ARCH, ARCHITECTURES, ERRNO, NUMBER, X32

if TYPE_CHECKING:
    from collections.abc import Iterable

_ASK = 0x7FC00000  # SECCOMP_RET_USER_NOTIF
_FIRST_ARGUMENT = 16  # the lower half, on little-endian machines: a descriptor has no more
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
# Numbers on x86-64 and on aarch64.
_SECCOMP = (317, 277)
_ALWAYS = {
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200),
    "exit_group": (231, 94), "shutdown": (48, 210),
}  # fmt: skip
_ENDS = {"close": (3, 57)}
READS = {
    "read": (0, 63), "readv": (19, 65), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
}  # fmt: skip
# It would send and receive without calls that a filter sees.
_IO_URING_SETUP = 425
# Out of a kTLS socket it loses data on some kernels (docs/handoff.md, R13). Programs that use it
# do without where it fails so.
_SPLICE = (275, 76)


def is_supported(machine: str) -> bool:
    """Return whether the numbers of an architecture's system calls are known."""
    return machine in ARCHITECTURES


def names(machine: str) -> dict[int, str]:
    """Return the names of the calls that the supervisor may be asked about, by number."""
    at = _column(machine)
    return {each[at]: name for name, each in (_ALWAYS | _ENDS | READS).items()}


def build(machine: str, base: int, *, reads: bool) -> bytes:
    """Write the filter.

    Args:
        machine: as ``uname -m`` has it; a supported one.
        base: descriptors from this number on may be connections.
        reads: whether to ask about reading from these.
    """
    at = _column(machine)
    always = [each[at] for each in _ALWAYS.values()]
    ranged = [(each[at], _ASK) for each in (_ENDS | (READS if reads else {})).values()]
    refusal = (RETURN, 0, 0, ERRNO | errno.ENOSYS)
    return assemble(
        [
            (LOAD, 0, 0, ARCH),
            (IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
            refusal,
            (LOAD, 0, 0, NUMBER),
            (UNLESS_BELOW, 0, 1, X32),
            refusal,
            *_if_equal(_IO_URING_SETUP, [refusal]),
            *(each for number in always for each in _if_equal(number, [(RETURN, 0, 0, _ASK)])),
            *(
                each
                for number, action in [*ranged, (_SPLICE[at], ERRNO | errno.EINVAL)]
                for each in _if_equal(number, _from(base, action))
            ),
            (RETURN, 0, 0, ALLOW),
        ]
    )


def _column(machine: str) -> int:
    return list(ARCHITECTURES).index(machine)


def _if_equal(
    number: int, then: list[tuple[int, int, int, int]]
) -> Iterable[tuple[int, int, int, int]]:
    """Do something for one call; it has to return."""
    return [(IF_EQUAL, 0, len(then), number), *then]


def _from(base: int, action: int) -> list[tuple[int, int, int, int]]:
    """Return an action for descriptors from a number on; others are the program's own."""
    return [
        (LOAD, 0, 0, _FIRST_ARGUMENT),
        (UNLESS_BELOW, 0, 1, base),
        (RETURN, 0, 0, action),
        (RETURN, 0, 0, ALLOW),
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
