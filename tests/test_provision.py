"""Tests of provision: peers' programs are the tree's, and use its files, whatever the host has."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from lane.peers import PEERS

from tests import provision
from tests.provision import find


@pytest.fixture
def tree() -> Path:
    """The tree."""
    return provision.tree()


@pytest.mark.parametrize("program", sorted(PEERS.programs))
def test_nothing_of_the_hosts(program: str, tree: Path) -> None:
    """What runs a peer, and all the libraries that it is linked with, are in the tree."""
    assert shutil.which(program) == find(program) == str(tree / "programs" / program)
    path = Path(find(program)).resolve()
    assert path.is_relative_to(tree)
    if path.read_bytes().startswith(b"#!"):
        interpreter = path.read_text().splitlines()[0].removeprefix("#!").split()[0]
        assert interpreter == "/bin/sh" or Path(interpreter).is_relative_to(tree)
        return
    loader = tree / "lib64/ld-linux-x86-64.so.2"
    assert bytes(loader) + b"\0" in path.read_bytes()
    said = subprocess.run([loader, "--list", path], capture_output=True, text=True, check=True)
    places = [line.split(" => ")[-1].split(" (")[0].strip() for line in said.stdout.splitlines()]
    assert len(places) > 1
    assert [each for each in places if not each.startswith(("linux-vdso", str(tree)))] == []


def test_nothing_but_peers_is_found(tree: Path) -> None:
    """No program that is not a peer's takes the place of the host's own."""
    assert {each.name for each in (tree / "programs").iterdir()} == set(PEERS.programs)


def _perl(expression: str) -> str:
    words = [find("perl"), "-e", f"print({expression})"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_its_own_files(tree: Path) -> None:
    """A path below /usr leads into the tree where the tree has the file; all others stay."""
    own = (tree / "usr/bin/openssl").stat().st_ino
    assert _perl('+(stat "/usr/bin/openssl")[1]') == str(own)
    assert _perl('+(stat "/etc/passwd")[1]') == str(Path("/etc/passwd").stat().st_ino)
    assert _perl('-e "/usr/nowhere" ? "there" : "absent"') == "absent"


def test_users_of_servers(tree: Path) -> None:
    """A server finds its own user, and whoever the host has is the host's."""
    assert "Debian-exim:" in (tree / "etc/passwd").read_text()
    words = [find("exim4"), "-C", "/dev/null", "-bP", "exim_user"]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    # Without one it fails; by what name the host knows the number does not matter.
    assert said.stdout.startswith("exim_user = ")
    assert _perl('scalar getpwnam("root")') == str(pwd.getpwnam("root").pw_uid)


@pytest.mark.usefixtures("tree")
def test_a_user_that_a_server_is_told_to_be() -> None:
    """It believes so, and is not."""
    script = 'print "$< $>"; print((stat "/proc/self")[4])'
    environment = os.environ | {"TLSIFY_PEER_UID": "65534"}
    words = [find("perl"), "-e", script]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == f"65534 65534{os.geteuid()}"


def test_prepared_twice_is_prepared(tree: Path) -> None:
    """A process whose parent has the peers in its PATH, as pytest's workers, leaves it alone."""
    assert PEERS.environment() == {"PATH": os.environ["PATH"]}
    assert os.environ["PATH"].split(os.pathsep).count(str(tree / "programs")) == 1
