"""Tests of sandbox: what a forked child, confined, can still reach."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.harness import tried
from tlsify.errors import ConfigError
from tlsify.system import sandbox
from tlsify.system.sandbox import Reach, Sandboxing, confine, renounce

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.own_kernel

with_landlock = pytest.mark.skipif(
    sandbox.refusal() is not None, reason=f"no sandbox: {sandbox.refusal()}"
)
with_ports = pytest.mark.skipif(
    sandbox.refusal() is not None or sandbox.abi() < 4, reason="this kernel confines no ports"
)
with_scopes = pytest.mark.skipif(
    sandbox.refusal() is not None or sandbox.abi() < 6, reason="this kernel confines no signals"
)


def _tried(reach: Reach, *attempts: Callable[[], object]) -> list[int | None]:
    """Make a child try things that can reach so much."""

    def enter() -> None:
        renounce()
        assert confine(reach, Sandboxing.REQUIRE) == sandbox.in_force().landlock > 0

    return tried(enter, *attempts)


@with_landlock
def test_files(tmp_path: Path) -> None:
    """What is named can be read, with all beneath it; nothing else can, nor be written."""
    shown, other = tmp_path / "shown", tmp_path / "other"
    for path in (shown / "deep" / "file", other / "file"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"text")
    single = tmp_path / "single"
    single.touch()
    (shown / "link").symlink_to(other / "file")
    found = _tried(
        Reach(read=(str(shown), str(single), str(tmp_path / "nothing"))),
        (shown / "deep/file").read_bytes,
        single.read_bytes,
        lambda: list(shown.iterdir()),
        (other / "file").read_bytes,
        (shown / "link").read_bytes,
        lambda: list(tmp_path.iterdir()),
        lambda: (shown / "deep/file").write_bytes(b"x"),
        (shown / "deep/file").unlink,
        (shown / "new").mkdir,
    )
    assert found == [None] * 3 + [errno.EACCES] * 6


@with_landlock
def test_place_to_write(tmp_path: Path) -> None:
    """Files and sockets come and go in folders that are named so, and folders do not."""
    sock = socket.socket(socket.AF_UNIX)
    found = _tried(
        Reach(write=(str(tmp_path),)),
        lambda: (tmp_path / "file").write_bytes(b"x"),
        (tmp_path / "file").read_bytes,
        lambda: sock.bind(str(tmp_path / "socket")),
        lambda: (tmp_path / "socket").rename(tmp_path / "moved"),
        (tmp_path / "moved").unlink,
        (tmp_path / "folder").mkdir,
    )
    assert found == [None] * 5 + [errno.EACCES]
    sock.close()


@with_landlock
def test_interpreter_goes_on() -> None:
    """Modules that nobody has imported yet are found, and so are the kernel's own files."""
    found = _tried(
        Reach(),
        lambda: __import__("mailbox"),
        lambda: __import__("tlsify.credentials.ocsp"),
        Path("/proc/self/status").read_text,
        lambda: Path("/dev/null").write_text("x"),
    )
    assert found == [None] * 4


@with_ports
def test_ports() -> None:
    """Connections are made to the ports that are named, and none is listened on."""
    address = ("127.0.0.1", 0)
    with socket.create_server(address) as one, socket.create_server(address) as other:
        found = _tried(
            Reach(ports=(one.getsockname()[1],)),
            lambda: socket.create_connection(one.getsockname()).close(),
            lambda: socket.create_connection(other.getsockname()).close(),
            lambda: socket.create_server(address),
        )
    assert found == [None, errno.EACCES, errno.EACCES]


@with_scopes
@pytest.mark.parametrize("abstract", [False, True])
def test_other_processes(*, abstract: bool) -> None:
    """They get no signals, and their abstract sockets are out of reach, unless these are needed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel chooses an abstract name
        listener.listen()
        found = _tried(
            Reach(abstract=abstract),
            lambda: os.kill(os.getppid(), 0),
            lambda: socket.socket(socket.AF_UNIX).connect(listener.getsockname()),
            lambda: os.kill(os.getpid(), 0),
        )
    assert found == [errno.EPERM, None if abstract else errno.EPERM, None]


@with_landlock
def test_rights_stay_as_they_were() -> None:
    """Nothing that is executed later has more of them (/proc/PID/status)."""

    def look() -> None:
        text = Path("/proc/self/status").read_text()
        if "NoNewPrivs:\t1" not in text:
            raise OSError(errno.EPERM, text)

    assert _tried(Reach(), look) == [None]
    assert "NoNewPrivs:\t1" not in Path("/proc/self/status").read_text()
    assert sandbox.in_force() == sandbox.Restraint()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_kernel_without(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done without, unless it is required: then the error says what is missing."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sandbox, "_call", fail)
    assert confine(Reach(), Sandboxing.AUTO) == 0
    with pytest.raises(ConfigError, match=f"landlock: {errno.errorcode[number]}"):
        confine(Reach(), Sandboxing.REQUIRE)
    assert "Landlock" in (sandbox.refusal() or "")
    assert confine(Reach(), Sandboxing.OFF) == 0
