"""OpenSSH over tlsify: sshd behind ``listen``, ssh with ``connect`` as its ProxyCommand."""

from __future__ import annotations

import os
import random
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import KERNEL, Place, recipe
from tests.interop.programs import PATIENCE, TIMEOUT, require
from tests.provision import find
from tlsify.ktls.diag import tls_stat

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_NOISE = random.Random(22).randbytes(2**20)
_SERVER = """
HostKey {0}/host
AuthorizedKeysFile {0}/user.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
_CLIENT = """
IdentityFile {0}/user
UserKnownHostsFile {0}/known
GlobalKnownHostsFile none
IdentitiesOnly yes
IdentityAgent none
BatchMode yes
LogLevel ERROR
"""


@pytest.fixture
def keys(place: Place) -> Place:
    """A place with a server's configuration, and keys for it and its user."""
    for name in ("ssh", "ssh-keygen", "sshd"):
        require(name)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as Debian's service has it made
    for name in ("host", "user"):
        place.succeed(f"ssh-keygen -q -t ed25519 -N '' -f {name}")
    place.write("known", f"localhost {(place.folder / 'host.pub').read_text()}")
    place.write("server", _SERVER.format(place.folder))
    return place


@contextmanager
def _serving(place: Place) -> Iterator[int]:
    sshd = f"{find('sshd')} -i -f {place.folder}/server -E {place.folder}/log"
    own: dict[str, str | int] = {"0.0.0.0:443": "127.0.0.1:0", "/usr/sbin/sshd -i": sshd}
    with place.start("exec " + recipe("ssh-serve", own)) as server:
        yield int(server.wait_for(rb"listening on 127\.0\.0\.1:(\d+)\n")[1])
        server.terminate()
        assert server.status() == 0, server.errors()
        # Whom ssh ends by a signal (SIGHUP) has no time for close_notify.
        said = (
            r"(tlsify: error: 127.0.0.1:\d+: .*(without close_notify|bad_certificate).*\n"
            r".*hint: .*\n)?"
        )
        assert re.fullmatch(said, server.errors()), server.errors()


def _ssh(place: Place, config: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a remote program that echoes, and ends with status 7."""
    place.write("config", config + _CLIENT.format(place.folder))
    return subprocess.run(
        ["ssh", "-F", str(place.folder / "config"), "localhost", "cat; exit 7"],
        env=os.environ | place.environment(),
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def test_proxy_command(keys: Place) -> None:
    """Ssh goes through the command; the remote program's data and status come back."""
    with _serving(keys) as port, keys.carried(connections=1):
        own: dict[str, str | int] = {"ssh.example.org": "localhost", "443": port}
        done = _ssh(keys, recipe("ssh-proxy", own), _NOISE)
    assert (done.returncode, done.stderr) == (7, b"")
    assert done.stdout == _NOISE


def test_proxy_that_passes_its_descriptor(keys: Place) -> None:
    """Ssh gets the connection's descriptor, the command ends, and its child relays."""
    with _serving(keys) as port:
        before = tls_stat()
        own: dict[str, str | int] = {
            "ssh.example.org": "localhost",
            "443": port,
            "--send-fd": "--ktls=off --send-fd",
        }
        done = _ssh(keys, recipe("ssh-fdpass", own), _NOISE)
        after = tls_stat()
    assert (done.returncode, done.stderr) == (7, b"")
    assert done.stdout == _NOISE
    taken = [after.get(name, 0) - before.get(name, 0) for name in ("TlsTxSw", "TlsRxSw")]
    servers = int(keys.carrier == KERNEL)
    assert taken[0] == servers
    assert taken[1] >= servers  # a probe of what poll reports may have keyed one direction more


@pytest.mark.full_run
@pytest.mark.parametrize("way", ["ssh-proxy", "ssh-fdpass"])
def test_server_that_is_somebody_else(keys: Place, way: str) -> None:
    """It ends ssh at once; the command says why, and sshd is never started."""
    with _serving(keys) as port:
        elsewhere = "tlsify connect --ktls=off --servername elsewhere.example"
        own: dict[str, str | int] = {
            "ssh.example.org": "localhost",
            "443": port,
            "tlsify connect": elsewhere,
        }
        done = _ssh(keys, recipe(way, own))
    assert done.returncode == 255
    assert done.stderr.startswith(b"tlsify: error: ")
    assert not (keys.folder / "log").exists()
