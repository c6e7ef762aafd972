"""Tests of os_errors."""

from __future__ import annotations

import errno
import socket

import pytest

from tlsify.system.os_errors import explain


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOENT, "something longer", "file"), "ENOENT: No such file or directory"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 1)"),
         "ECONNREFUSED: Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
         "Name or service not known"),
        (TimeoutError("too late"), "too late"),
        (OSError(12345, "odd"), "odd"),
    ],
)  # fmt: skip
def test_words(error: OSError, said: str) -> None:
    """The errno's name and its sentence, where it is one."""
    assert explain(error) == said
