"""Tests of process_memory: addresses, written where a call wants them."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from typing import Any

import pytest

from tlsify.wrap.notifications import Call, Notifications
from tlsify.wrap.process_memory import encode_address, write_address
from tlsify.wrap.threads import Thread

NAMES: dict[socket.AddressFamily, tuple[Any, ...]] = {
    socket.AF_INET: ("192.0.2.1", 4711),
    socket.AF_INET6: ("2001:db8::1", 4711, 0, 0),
}


class _Valid(Notifications):
    """Confirms each call, or none."""

    def __init__(self, *, is_valid: bool) -> None:
        """Say which."""
        self._is_valid = is_valid

    def is_valid(self, call: Call) -> bool:  # noqa: ARG002 - of the class
        """Return what was said."""
        return self._is_valid


def _write(at: int, length_at: int, data: bytes, *, is_valid: bool = True) -> None:
    call = Call(1, threading.get_native_id(), "accept", (3, at, length_at, 0, 0, 0))
    thread = Thread(call.tid)
    try:
        write_address(_Valid(is_valid=is_valid), call, thread, data)
    finally:
        thread.close()


@pytest.mark.parametrize("family", NAMES)
def test_encoding(family: socket.AddressFamily) -> None:
    """The kernel takes it for the same address."""
    data = encode_address(family, NAMES[family])
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        libc = ctypes.CDLL(None)
        assert libc.connect(sock.fileno(), data, len(data)) in {0, -1}
    assert int.from_bytes(data[:2], "little") == family
    assert len(data) == {socket.AF_INET: 16, socket.AF_INET6: 28}[family]
    assert data[2:4] == (4711).to_bytes(2, "big")
    assert socket.inet_pton(family, NAMES[family][0]) in data


def test_writing() -> None:
    """As much as there is room for, and the whole length; nowhere if nobody wants it."""
    room, length = ctypes.create_string_buffer(b"." * 16), ctypes.c_int32(4)
    _write(ctypes.addressof(room), ctypes.addressof(length), b"address")
    assert (room.raw[:8], length.value) == (b"addr....", 7)
    _write(0, 0, b"address")


def test_nothing_to_write_to() -> None:
    """Errors are those of accept(2); a call that has ended is not written for."""
    length = ctypes.c_int32(-1)
    there = ctypes.addressof(length)
    for at, length_at, number in ((1, 1, errno.EFAULT), (2**64 - 8,) * 2 + (errno.EFAULT,)):
        with pytest.raises(OSError, match=os.strerror(number)):
            _write(at, length_at, b"address")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        _write(there, there, b"address")
    length.value = 4
    with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
        _write(1, there, b"address")
    with pytest.raises(ProcessLookupError):
        _write(there, there, b"address", is_valid=False)
    assert length.value == 4
