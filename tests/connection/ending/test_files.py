"""Tests of files: buffers that are sent before connections end."""

from __future__ import annotations

import gc
import os
import socket
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import OFFLOADS, Lab, until
from tlsify.connection.ending import files, patience

if TYPE_CHECKING:
    from tlsify.config import KtlsPolicy
    from tlsify.connection.stream import TLSSocket


class _File:
    closed = is_flushed = False

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self.is_flushed = True


both = pytest.mark.parametrize("policy", OFFLOADS)


@both
def test_flushed(lab: Lab, policy: KtlsPolicy) -> None:
    """Each file that is open, binary or text, whatever has become of the others' connections."""
    stream, peer = lab.stream(policy)
    other, others_peer = lab.stream(policy)
    made = [stream.makefile("wb"), stream.makefile("w"), stream.makefile("rb")]
    made[0].write(b"one")
    made[1].write("two")
    broken = other.makefile("wb")
    broken.write(b"never sent")
    other.shutdown(socket.SHUT_WR)
    stream.setblocking(False)
    files._flush_all()
    assert peer.recv_data(6) in {b"onetwo", b"twoone"}
    broken.raw.close()
    others_peer.sock.close()
    for each in (*made, stream, other):
        each.close()


@both
def test_peer_that_does_not_read(
    lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose connection has no room is left alone after a while."""
    stream, _ = lab.stream(policy)
    file = files.flushed(_File(), stream)
    files._flush_all()
    assert file.is_flushed
    monkeypatch.setattr(patience, "PATIENCE", 0.01)
    until(lambda: _is_left_alone(stream, file))
    stream.abort()


def _is_left_alone(stream: TLSSocket, file: _File) -> bool:
    """Fill a connection; return whether its file is not flushed then.

    On a busy machine the carrier may make room once more in between.
    """
    stream.settimeout(0)
    with suppress(BlockingIOError):
        while True:
            stream.send(bytes(2**16))
    file.is_flushed = False
    files._flush_all()
    return not file.is_flushed


class _Socket(socket.socket):
    file: object


def test_file_that_its_socket_has() -> None:
    """The two are collected together; a file that is only read is left alone."""
    sock = _Socket()
    sock.file = files.flushed(sock.makefile("wb"), sock)
    held, number = weakref.ref(sock), len(files._open)
    files.flushed(sock.makefile("rb"), sock).close()
    assert len(files._open) == number
    os.close(sock.detach())
    del sock
    gc.collect()
    assert held() is None
