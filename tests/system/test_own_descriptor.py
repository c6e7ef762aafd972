"""Tests of own_descriptor."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tlsify.system.own_descriptor import OwnDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable

_MADE: dict[str, Callable[[], int]] = {
    "eventfd": lambda: os.eventfd(0, os.EFD_CLOEXEC),
    "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
}


@pytest.mark.parametrize("kind", _MADE)
def test_number_of_another_file(kind: str) -> None:
    """It is ours until something else has the number, which is then left alone."""
    own = OwnDescriptor(_MADE[kind]())
    assert own.check() == own.number >= 64
    own.close()
    assert not own.is_ours()
    reader, writer = os.pipe()
    os.dup2(reader, own.number)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        own.check()
    assert caught.value.errno == errno.EBADF
    own.close()
    for number in (reader, writer, own.number):
        os.close(number)


def test_number_of_another_socket() -> None:
    """Each has an inode of its own."""
    own, second = (OwnDescriptor(_MADE["socket"]()) for _ in range(2))
    os.dup2(second.number, own.number)
    assert not own.is_ours()
    assert second.is_ours()
    os.close(own.number)
    second.close()
