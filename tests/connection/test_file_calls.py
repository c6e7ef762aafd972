"""Tests of file_calls."""

from __future__ import annotations

import io
import select
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, OFFLOADS, Endpoint, Lab, until
from tlsify.connection.ending import calls

if TYPE_CHECKING:
    from typing import BinaryIO

    from tlsify.config import KtlsPolicy

pytestmark = pytest.mark.each_kernel

both = pytest.mark.parametrize("policy", OFFLOADS)


@both
def test_sendfile(lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """socket.sendfile carries a part of a file."""
    stream, peer = lab.stream(policy)
    content = bytes(range(256)) * 300
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        sender = Endpoint(lambda: stream.sendfile(file, 100, 70000))
        assert peer.recv_data(70000) == content[100:70100]
        assert sender.result() == 70000


@both
def test_close_in_the_midst_of_a_file(
    lab: Lab, policy: KtlsPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer sees no clean end behind a part of it, whoever copies it."""
    monkeypatch.setattr(calls, "_MOMENT", 0.01)
    stream, peer = lab.stream(policy)
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(2**24)
        sender = Endpoint(lambda: stream.sendfile(file))
        until(lambda: not select.select([], [stream], [], 0)[1])
        stream.close()
        with pytest.raises(OSError, match=r"Broken pipe|Bad file"):
            sender.result()
    assert CLOSE_NOTIFY not in iter(peer.recv, None)


@both
def test_makefile(lab: Lab, policy: KtlsPolicy) -> None:
    """File objects read lines and write, and the connection lives as long as one of them."""
    stream, peer = lab.stream(policy)
    reader, writer = stream.makefile("rb"), stream.makefile("wb")
    peer.send_data(b"first line\nsec")
    peer.send_data(b"ond line\n")
    assert reader.readline() == b"first line\n"
    assert reader.readline() == b"second line\n"
    stream.close()
    writer.write(b"answer")
    writer.close()
    assert peer.recv_data(6) == b"answer"
    peer.send_data(b"still open\n")
    assert reader.readline() == b"still open\n"
    reader.close()
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


class Counting:
    """A wrapper that counts what is read of a file, with a descriptor that has other bytes."""

    def __init__(self, file: BinaryIO) -> None:
        """Wrap a file."""
        self._file, self.seen = file, 0

    def fileno(self) -> int:
        """Return the file's own."""
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        """Read, in capitals."""
        data = self._file.read(size)
        self.seen += len(data)
        return data.upper()


@both
def test_files_that_have_to_be_read(lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """What a file's descriptor has may be something else, or nothing: then its read counts."""
    stream, peer = lab.stream(policy)
    (tmp_path / "file").write_bytes(b"text")
    with (tmp_path / "file").open("rb") as file:
        wrapper = Counting(file)
        assert stream.sendfile(wrapper) == wrapper.seen == 4  # type: ignore[arg-type]
        assert peer.recv_data(4) == b"TEXT"
    with Path("/proc/self/cmdline").open("rb") as file:
        expected = file.read()
        file.seek(0)
        assert stream.sendfile(file) == len(expected)
        assert peer.recv_data(len(expected)) == expected
    with Path("/dev/zero").open("rb") as file:
        assert stream.sendfile(file, 0, 100) == 100
        assert peer.recv_data(100) == bytes(100)
    with (tmp_path / "file").open("wb") as file, pytest.raises(io.UnsupportedOperation):
        stream.sendfile(file)
    with tempfile.TemporaryFile() as file:
        file.write(b"not flushed")
        assert stream.sendfile(file, 4) == 7
        assert peer.recv_data(7) == b"flushed"
