"""Busybox's wget over tlsify: by its own helper's name, and in the place of openssl's."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import KERNEL, RELAY, Place, recipe, recipes
from tests.interop.programs import PATIENCE, TIMEOUT, require
from tests.provision import find
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_PAGE = random.Random(80).randbytes(2**20)
_REQUEST = b"GET /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# A busybox that runs its helper; Debian's does not. Its source makes one of 50 kB: "make
# allnoconfig", then CONFIG_NOMMU, CONFIG_WGET and CONFIG_FEATURE_WGET_HTTPS.
_BUSYBOX = os.environ.get("TLSIFY_BUSYBOX")
# What an installation makes of the command's entry point.
_CONSOLE_SCRIPT = "import sys\nfrom tlsify.cli import main\nsys.exit(main())\n"


@pytest.fixture
def site(place: Place) -> Place:
    """A place with a page to serve."""
    (place.folder / "site").mkdir()
    (place.folder / "site/page").write_bytes(_PAGE)
    return place


@contextmanager
def _serving(place: Place) -> Iterator[int]:
    words = "exec tlsify --log-level=warning serve --listen 127.0.0.1:0 "
    words += "--cert cert.pem --key key.pem site"
    with place.start(words) as server:
        yield int(server.wait_for(rb"on https://127\.0\.0\.1:(\d+)/ ")[1])
        server.terminate()
        assert server.status() == 0, server.errors()
        assert server.errors() == ""


def _install(place: Place, folder: str, name: str) -> None:
    path = place.folder / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(recipes()[name])
    path.chmod(0o700)


def _install_helper(place: Place) -> None:
    """Over the relay as a link to the command, to the kernel as a script."""
    if place.carrier == KERNEL:
        _install(place, "bin", "ssl_client")
        return
    command = place.folder / "bin/tlsify"
    command.write_text(f"#!{sys.executable}\n{_CONSOLE_SCRIPT}")
    place.succeed(recipe("busybox-helper", {"/usr/local/bin": f"{place.folder}/bin"}))


def _as_wget(place: Place, port: int, name: str = "localhost") -> tuple[bytes, str, int]:
    """Run the helper as networking/wget.c does; return the answer, its complaints and its status.

    The connection is descriptor 3, stdin and stdout are one socket, whose other end is shut down
    behind the request.
    """
    ours, theirs = socket.socketpair()
    sock = socket.create_connection(("127.0.0.1", port))
    number = sock.fileno()
    with ours, theirs, sock:
        helper = subprocess.Popen(
            [find("bash"), "-c", f"exec ssl_client -s3 -n {name} 3<&{number} {number}<&-"],
            env=os.environ | place.environment(),
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.PIPE,
            pass_fds=[number],
        )
        theirs.close()
        sock.close()
        ours.settimeout(PATIENCE)
        ours.sendall(_REQUEST)
        ours.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):  # where the helper leaves the request unread
            while received := ours.recv(2**16):
                answer += received
    with helper:
        _, errors = helper.communicate(timeout=PATIENCE)
    return answer, errors.decode(), helper.returncode


def test_helper_as_wget_runs_it(site: Place) -> None:
    """A server that would not answer behind close_notify does answer."""
    _install_helper(site)
    with _serving(site) as port, site.carried(connections=1):
        answer, errors, status = _as_wget(site, port)
    assert (errors, status) == ("", 0)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.partition(b"\r\n\r\n")[2] == _PAGE


@pytest.mark.full_run
def test_helper_verifies(site: Place) -> None:
    """Wget gets nothing from a server whose certificate names somebody else."""
    _install_helper(site)
    with _serving(site) as port:
        answer, errors, status = _as_wget(site, port, "other.example")
    assert (answer, status) == (b"", ExitCode.IDENTITY)
    assert errors.startswith("tlsify: error: ")


@pytest.mark.parametrize("place", [RELAY], indirect=True)
@pytest.mark.skipif(_BUSYBOX is None, reason="TLSIFY_BUSYBOX names no busybox with a helper")
def test_wget_that_runs_its_helper(site: Place) -> None:
    """The file arrives, and only from the server that was named."""
    _install_helper(site)
    with _serving(site) as port, site.carried(connections=1):
        site.succeed(f"{_BUSYBOX} wget -O page https://localhost:{port}/page")
    assert (site.folder / "page").read_bytes() == _PAGE
    with _serving(site) as port:
        done = site.run(f"{_BUSYBOX} wget -O other https://127.0.0.1:{port}/page")
    assert done.returncode != 0
    assert "tlsify: error: " in done.stdout


def test_wget_that_runs_openssl(site: Place) -> None:
    """Debian's wget gets the file through the script, and only from the server that was named."""
    require("busybox")
    _install(site, "busybox-bin", "openssl")
    with _serving(site) as port:
        own: dict[str, str | int] = {"www.example.org:443": f"localhost:{port}"}
        with site.carried(connections=1):
            site.succeed(recipe("busybox-wget", own))
        assert (site.folder / "page").read_bytes() == _PAGE
        own = {"www.example.org:443": f"127.0.0.1:{port}", "-O page": "-O other"}
        assert site.run(recipe("busybox-wget", own)).returncode != 0
        assert not (site.folder / "other").exists()


@pytest.mark.full_run
def test_wget_that_was_told_not_to_verify(site: Place) -> None:
    """The script does as it is told, and the command says so."""
    require("busybox")
    _install(site, "busybox-bin", "openssl")
    with _serving(site) as port:
        own: dict[str, str | int] = {
            "www.example.org:443": f"127.0.0.1:{port}",
            "wget -O": "wget --no-check-certificate -O",
        }
        site.succeed(recipe("busybox-wget", own))
    assert (site.folder / "page").read_bytes() == _PAGE


def test_debian_runs_what_the_script_expects(site: Place) -> None:
    """It is ``openssl s_client``, with the words that the script looks for."""
    require("busybox")
    folder = site.folder / "busybox-bin"
    folder.mkdir()
    spy = folder / "openssl"
    spy.write_text('#!/bin/sh\necho "$*" >"$HOME/words"\n')
    spy.chmod(0o700)
    site.run(recipe("busybox-wget", {"www.example.org:443": "localhost:1"}))
    words = (site.folder / "words").read_text()
    assert re.match("s_client .*-connect localhost:1 ", words)
    assert "-verify_return_error" in words
