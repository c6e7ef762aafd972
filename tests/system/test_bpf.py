"""Tests of bpf: programs as the kernel takes them."""

from __future__ import annotations

import socket
import struct

from tlsify.system.bpf import INSTRUCTION, RETURN, Program, assemble

_ATTACH_FILTER = 26


def test_program() -> None:
    """A socket filter of one instruction lets one byte of each datagram through."""
    code = assemble([(RETURN, 0, 0, 1)])
    assert code == struct.pack("=HBBI", 6, 0, 0, 1)
    assert len(code) == INSTRUCTION.size
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, bytes(Program.of(code)))
        ours.send(b"datagram")
        assert theirs.recv(100) == b"d"
