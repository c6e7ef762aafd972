"""Classic BPF: instructions, and programs in the form that system calls take."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# linux/bpf_common.h: load a word, or a byte, from an absolute offset; mask; jumps; return.
LOAD, LOAD_BYTE, MASK = 0x20, 0x30, 0x54
IF_EQUAL, UNLESS_BELOW, IF_ANY_BIT = 0x15, 0x35, 0x45
RETURN, RETURN_VALUE = 0x06, 0x16
SUBTRACT = 0x14
INSTRUCTION = struct.Struct("=HBBI")


class Program(ctypes.Structure):
    """A program as the kernel takes it: linux/filter.h struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    @classmethod
    def of(cls, code: bytes) -> Program:
        """Refer to assembled instructions, which have to live as long."""
        return cls(len(code) // INSTRUCTION.size, code)


def assemble(instructions: Iterable[tuple[int, int, int, int]]) -> bytes:
    """Encode instructions."""
    return b"".join(INSTRUCTION.pack(*each) for each in instructions)
