"""Tests of listener."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.agent.listener import Inherited, Listener
from tlsify.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a short name; no descriptor is left open."""
    before = descriptors()
    made = Path(tempfile.mkdtemp(prefix="tlsify-"))
    yield made
    shutil.rmtree(made)
    check_descriptors(before)


def answers(path: Path) -> bool:
    """Return whether somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return sock.connect_ex(str(path)) == 0


def test_folder_is_made(folder: Path) -> None:
    """One that is not there is made, and private."""
    place = Listener(folder / "new" / "agent")
    with place.sock:
        assert (folder / "new").stat().st_mode & 0o777 == 0o700
        assert answers(folder / "new" / "agent")


def test_stale_socket_is_replaced(folder: Path) -> None:
    """Of an agent that died without a word nothing is left."""
    Listener(folder / "agent").sock.close()
    assert not answers(folder / "agent")
    with Listener(folder / "agent").sock:
        assert answers(folder / "agent")


def test_live_agent_is_left_alone(folder: Path) -> None:
    """A second agent is refused, and the first goes on, however many are waiting for it."""
    with Listener(folder / "agent").sock as first:
        first.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(str(folder / "agent"))
        with pytest.raises(ConfigError, match="an agent is already running at"):
            Listener(folder / "agent")
        for sock in waiting:
            sock.close()


def test_withdrawn_place_is_free(folder: Path) -> None:
    """While an agent finishes, another may take its place, and keeps it."""
    first = Listener(folder / "agent")
    first.withdraw()
    assert not (folder / "agent").exists()
    second = Listener(folder / "agent")
    first.withdraw()
    assert answers(folder / "agent")
    first.sock.close()
    second.sock.close()


def test_place_that_is_gone(folder: Path) -> None:
    """Whatever has become of the folder meanwhile, the end is one."""
    place = Listener(folder / "new" / "agent")
    (folder / "new").chmod(0o755)
    place.withdraw()
    assert (folder / "new" / "agent").exists()
    shutil.rmtree(folder / "new")
    place.withdraw()
    with place.sock, pytest.raises(OSError, match="Invalid argument"):
        place.sock.accept()


def test_whoever_waits_is_told(folder: Path) -> None:
    """What waits is still served; then there is an end."""
    place = Listener(folder / "agent")
    with place.sock, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as waiting:
        waiting.connect(str(folder / "agent"))
        place.withdraw()
        place.sock.accept()[0].close()
        with pytest.raises(OSError, match="Invalid argument"):
            place.sock.accept()


@pytest.mark.parametrize("mode", [0o701, 0o750, 0o777])
def test_open_folder(folder: Path, mode: int) -> None:
    """A folder that others may enter is refused."""
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="is not private"):
        Listener(folder / "agent")
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder(folder: Path) -> None:
    """So is one of another user's, be it private."""
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigError, match="is not private"):
        Listener(folder / "agent")


def test_something_else_is_there(folder: Path) -> None:
    """What is no socket is not removed."""
    (folder / "agent").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is no socket"):
        Listener(folder / "agent")
    assert (folder / "agent").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["no/folder/agent", "x" * 120, "a\0b"])
def test_impossible_place(folder: Path, name: str) -> None:
    """A path that cannot be is an error of the configuration."""
    with pytest.raises(ConfigError, match="cannot listen at"):
        Listener(folder / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_permission(folder: Path) -> None:
    """As is a folder that takes nothing."""
    folder.chmod(0o500)
    with pytest.raises(ConfigError, match=r"cannot listen at .*: EACCES: Permission denied"):
        Listener(folder / "agent")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_full_disk(folder: Path) -> None:
    """As is a file system that has no room."""
    words = ["mount", "-t", "tmpfs", "-o", "nr_inodes=1,mode=700", "none", str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed")
    try:
        with pytest.raises(ResourceError, match=r"cannot listen at .*: ENOSPC: No space left"):
            Listener(folder / "agent")
    finally:
        subprocess.run(["umount", folder], check=True)


# -- inherited


def test_pair() -> None:
    """One end of a pair is taken over, and no program inherits it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_inheritable(ours.fileno(), True)
    place = Inherited(ours.detach())
    with place.sock, theirs:
        assert not place.sock.get_inheritable()
        place.withdraw()
        assert place.sock.recv(1) == b""


def test_no_pair() -> None:
    """What is no such socket is refused, and left alone."""
    stream, other = socket.socketpair()
    alone = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with stream, other, alone:
        for sock in (stream, alone):
            with pytest.raises(ConfigError, match="no connected AF_UNIX socket"):
                Inherited(sock.fileno())
            os.fstat(sock.fileno())
    with open(os.devnull, "rb") as file, pytest.raises(ConfigError, match="no socket"):
        Inherited(file.fileno())
    with pytest.raises(ConfigError, match="no socket: EBADF: Bad file descriptor"):
        Inherited(9999)
