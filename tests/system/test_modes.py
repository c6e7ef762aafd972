"""Tests of modes: each place of tlsify that makes a folder, a file or a socket, in one table."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tlsify.tls.certificates  # who is somebody else by then cannot import it
from tests.doubles import check_descriptors, descriptors
from tests.strangers import UID, as_stranger, only_root
from tlsify.acme.board import Board
from tlsify.acme.sharing import Sharing
from tlsify.addresses import Address
from tlsify.agent.listener import Listener
from tlsify.cli import serve
from tlsify.cli.options import automatic
from tlsify.config import ClientConfig
from tlsify.connection.setup.keylog import append
from tlsify.connection.setup.session_store import Origin, SessionStore, StoredSession
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError
from tlsify.receiver import Receiver
from tlsify.renewal.folder import Folder
from tlsify.status import census, roster
from tlsify.system import listening
from tlsify.system.modes import bind, make_private, write_public
from tlsify.trust.index import Cache, default_cache, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ANCHOR = make_key_pair(["localhost"]).certificate_pem()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where everything is made; its path is short, and nothing is left open."""
    made = Path(tempfile.mkdtemp(prefix="tlsify-"))
    before = descriptors()
    yield made
    check_descriptors(before)
    shutil.rmtree(made)


def _agent(folder: Path) -> None:
    for _ in range(2):  # the second time there are remains
        Listener(folder / "agent/socket").sock.close()


def _roster(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(census.VARIABLE, str(folder / "tlsify/roster"))
        with roster.publish(), roster.publish():
            assert len(census.ask(60).rosters) == 2
            for path in (folder / "tlsify/roster").iterdir():
                (folder / "tlsify" / path.name[-8:]).hardlink_to(path)


def _metrics(folder: Path) -> None:
    for _ in range(2):
        listening.listen_at(folder / "metrics").close()


def _receiver(folder: Path) -> None:
    for _ in range(2):
        Receiver(folder / "private").sock.close()
        Receiver(folder / "shared", 0o660).sock.close()


def _keylog(folder: Path) -> None:
    for _ in range(2):
        append(folder / "keys", b"secret\n")


def _tickets(folder: Path) -> None:
    config = ClientConfig.for_host("example.org")
    origin = Origin.of(config, ("192.0.2.1", 443))
    for _ in range(2):
        kept = StoredSession(b"session", *[float(int(time.time()) + 60)] * 2)
        store = SessionStore(folder / "sessions")
        store.keep(origin, kept)
        assert store.take(origin) == kept
        store.keep(origin, kept)


def _cache(folder: Path) -> None:
    (folder / "anchors").mkdir()
    (folder / "anchors").chmod(0o755)
    (folder / "anchors/a.pem").write_bytes(_ANCHOR)
    (folder / "anchors/a.pem").chmod(0o644)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME", raising=False)
        patch.setenv("HOME", str(folder))
        for _ in range(2):
            cache = Cache(default_cache())
            cache.index(folder / "anchors", survey(folder / "anchors"))
    shutil.rmtree(folder / "anchors")


def _write_ca(folder: Path) -> None:
    for _ in range(2):
        listen = [Address("127.0.0.1", 8443)]
        arguments = argparse.Namespace(listen=listen, write_ca=folder / "ca.pem")
        serve._Stopgap(arguments).give()


def _renewal(folder: Path) -> None:
    for _ in range(2):
        made = Folder(folder / "acme", "the folder").check()
        with made.locked() as is_ours:
            assert is_ours
        made.write("a.pem", b"secret")
        sharing = Sharing(made, Board())
        sharing.join()
        os.close(sharing._presence)


def _state(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(folder / "a/b"))
        for _ in range(2):
            automatic._state("acme", prepare=True)


# What makes something: the modes of all that it makes, in the order of their paths.
_MAKERS: dict[Callable[[Path], None], list[int]] = {
    _agent: [0o700, 0o600],
    _roster: [0o700, 0o600, 0o600, 0o700],
    _metrics: [0o600],
    _receiver: [0o600, 0o660],
    _keylog: [0o600],
    _tickets: [0o700, 0o600, 0o600],
    _cache: [0o700, 0o700, 0o700, 0o700, 0o600],
    _write_ca: [0o644],
    _renewal: [0o700, 0o600, 0o600, 0o600],
    _state: [0o700, 0o700],
}


def _made(folder: Path) -> list[int]:
    found = sorted(path for path in folder.rglob("*") if not path.is_symlink())
    return [path.stat().st_mode & 0o777 for path in found]


@pytest.fixture(params=[0, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Sets it for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("make", _MAKERS, ids=lambda make: make.__name__[1:])
def test_modes(folder: Path, make: Callable[[Path], None]) -> None:
    """What is secret or private is its owner's alone, what is public his alone to write."""
    make(folder)
    assert _made(folder) == _MAKERS[make]


@only_root
@pytest.mark.parametrize("make", _MAKERS, ids=lambda make: make.__name__[1:])
def test_ordinary_user(folder: Path, make: Callable[[Path], None]) -> None:
    """Nor does the oddest umask keep a user from what is his, who unlike root has to be let in."""
    os.chown(folder, UID, UID)

    def work() -> None:
        os.umask(0o777)
        make(folder)

    pid = as_stranger(work)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert _made(folder) == _MAKERS[make]


def test_nobody_else_makes_anything() -> None:
    """Whoever makes a folder, a file or a socket is in the table above."""
    root = Path(tlsify.__file__).parent
    making = re.compile(
        r"\.mkdir\(|makedirs|\.bind\(|O_CREAT|write_text|write_bytes|open\(.*\"[wax]"
    )
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if making.search(path.read_text())
    }
    assert found == {
        "system/modes.py",
        "acme/sharing.py",
        "renewal/folder.py",
        "connection/setup/keylog.py",
        "status/roster.py",
        "connection/setup/session_store.py",
        "trust/index.py",
        "credentials/pem.py",  # memory without a name
        "connection/setup/dialing.py",  # a port, not a path
        "status/host.py",  # likewise
        "addresses.py",  # likewise
        "wrap/calls.py",  # likewise
        "wrap/relay/pair.py",  # likewise
        "wrap/steering.py",  # likewise
    }


# -- the rest of it


def test_no_folder_above(folder: Path) -> None:
    """An agent makes its own folder and none above it."""
    with pytest.raises(ConfigError, match=r"cannot listen at .*No such file"):
        Listener(folder / "above/own/agent")
    assert not list(folder.iterdir())


def test_what_is_there_stays(folder: Path) -> None:
    """A folder that is there is as private as its owner wants it; so is a public file."""
    folder.chmod(0o750)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o750
    (folder / "public").touch(0o600)
    (folder / "link").symlink_to("public")
    (folder / "loose").symlink_to("new")
    (folder / "public").write_bytes(b"much longer than this")
    write_public(folder / "link", b"this")
    write_public(folder / "loose", b"that")
    assert (folder / "public").read_bytes() == b"this"
    assert (folder / "public").stat().st_mode & 0o777 == 0o600
    assert (folder / "new").read_bytes() == b"that"


def test_no_folder_to_make_it_in(folder: Path) -> None:
    """Where nothing can be made that is said."""
    with pytest.raises(FileNotFoundError):
        make_private(folder / "a/b")
    with pytest.raises(FileNotFoundError):
        write_public(folder / "a/b", b"")
    with socket.socket(socket.AF_UNIX) as sock:
        with pytest.raises(FileNotFoundError):
            bind(sock, str(folder / "a/b"))
        (folder / "there").touch(0o644)
        with pytest.raises(OSError, match="in use"):
            bind(sock, str(folder / "there"))
        assert (folder / "there").stat().st_mode & 0o777 == 0o644
