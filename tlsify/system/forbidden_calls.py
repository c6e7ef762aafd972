"""Seccomp: system calls that no process of tlsify needs, but an intruder would."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from tlsify.system import libc
from tlsify.system.bpf import IF_EQUAL, LOAD, RETURN, UNLESS_BELOW, Program, assemble

if TYPE_CHECKING:
    from collections.abc import Collection

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, ARCH = 0, 4  # offsets in linux/seccomp.h struct seccomp_data
# x86's calls with 32-bit pointers have numbers from here on, and go past the names below.
X32 = 0x40000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers on x86-64 and on aarch64: programs, other processes' memory and descriptors, mounts and
# namespaces, the kernel's own code and keyrings, clocks, and calls that evade other sandboxes.
_CALLS = {
    "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "swapon": (167, 224), "reboot": (169, 142), "acct": (163, 89), "quotactl": (179, 60),
    "syslog": (103, 116), "personality": (135, 92),
}  # fmt: skip


def forbid(but: Collection[str] = ()) -> None:
    """Make such calls fail with EPERM, in this thread and all its threads and children.

    There is no way back, and ``no_new_privs`` has to be set.

    Args:
        but: names of calls that this process needs.

    Raises:
        OSError: the kernel refuses, or the numbers of this architecture's calls are not known.

    Source: Documentation/userspace-api/seccomp_filter.rst.
    """
    code = _filter(os.uname().machine, but)
    program = Program.of(code)
    libc.call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)


def _filter(machine: str, but: Collection[str] = ()) -> bytes:
    """Write the filter for an architecture."""
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter for {machine}")
    numbers = [each[machine == "aarch64"] for name, each in _CALLS.items() if name not in but]
    # Jumps count from the next instruction on; the two ends are the last ones.
    tests = [(UNLESS_BELOW, X32), *((IF_EQUAL, number) for number in numbers)]
    found = [
        (LOAD, 0, 0, ARCH),
        (IF_EQUAL, 0, len(tests) + 2, ARCHITECTURES[machine]),
        (LOAD, 0, 0, NUMBER),
        *((test, len(tests) - at, 0, value) for at, (test, value) in enumerate(tests)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO | errno.EPERM),
    ]
    return assemble(found)
