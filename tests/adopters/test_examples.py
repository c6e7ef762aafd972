"""The programs of docs/examples, as docs/callers.md shows them."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.adopters.recipes import KERNEL, PROJECT, RELAY
from tests.interop.programs import TIMEOUT
from tests.provision import find
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.adopters.recipes import Place

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_EXAMPLES = PROJECT / "docs/examples"
_PAGE = b"<p>hello</p>\n" * 10_000
_LONGEST = 40  # lines that the issue allows the C program
_NAMES = sorted(path.name for path in _EXAMPLES.glob("fetch.*"))
# The guests have no compiler and no Tcl.
_IN_GUESTS = [name for name in _NAMES if not name.endswith((".c", ".tcl"))]
each = pytest.mark.parametrize(
    ("place", "name"),
    [
        *(pytest.param(RELAY, name, id=f"relay-{name}") for name in _NAMES),
        *(
            pytest.param(KERNEL, name, id=f"kernel-{name}", marks=pytest.mark.ktls)
            for name in _IN_GUESTS
        ),
    ],
    indirect=["place"],
)


def _interpreter(suffix: str) -> str:
    ours = {".sh": "sh", ".py": sys.executable}
    return ours.get(suffix) or find({".pl": "perl", ".tcl": "tclsh"}[suffix])


def _words(name: str, folder: Path) -> str:
    """Return the words that run an example; C is compiled first."""
    path = _EXAMPLES / name
    if path.suffix != ".c":
        return shlex.join([_interpreter(path.suffix), str(path)])
    made = folder / "fetch"
    words = [find("gcc"), "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", str(made), str(path)]
    return f"{shlex.join(words)} && {shlex.quote(str(made))}"


@contextmanager
def _serving(place: Place) -> Iterator[int]:
    (place.folder / "site").mkdir()
    (place.folder / "site/index.html").write_bytes(_PAGE)
    words = "exec tlsify --log-level=warning serve --listen 127.0.0.1:0 "
    words += "--cert cert.pem --key key.pem site"
    with place.start(words) as server:
        port = int(server.wait_for(rb"on https://127\.0\.0\.1:(\d+)/ ")[1])
        _let_callers_choose(place)
        yield port
        server.terminate()
        assert server.status() == 0, server.errors()
        assert server.errors() == ""


def _let_callers_choose(place: Place) -> None:
    """Ask for the kernel, since who knows nothing of records cannot insist on it."""
    if place.carrier == KERNEL:
        command = place.folder / "bin/tlsify"
        command.write_text(command.read_text().replace(KERNEL, "--ktls"))


@each
def test_page(place: Place, name: str) -> None:
    """The example prints the answer and succeeds."""
    words = _words(name, place.folder)
    with _serving(place) as port:
        place.succeed(f"{words} localhost {port} authority.pem >answer")
    head, _, body = (place.folder / "answer").read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == _PAGE


@pytest.mark.full_run
@each
def test_server_that_is_not_trusted(place: Place, name: str) -> None:
    """The example prints nothing; it ends with the command's status, which has said why."""
    words = _words(name, place.folder)
    trustme.CA().cert_pem.write_to_path(place.folder / "other.pem")
    with _serving(place) as port:
        done = place.run(f"{words} localhost {port} other.pem >answer")
    assert done.returncode == ExitCode.IDENTITY
    assert [line[:14] for line in done.stdout.splitlines()] == ["tlsify: error:", "tlsify: hint: "]
    assert (place.folder / "answer").read_bytes() == b""


@pytest.mark.full_run
@each
def test_nobody_there(place: Place, name: str) -> None:
    """Nor does it hang where there is no server."""
    words = _words(name, place.folder)
    _let_callers_choose(place)
    done = place.run(f"{words} localhost 1 authority.pem")
    assert done.returncode == ExitCode.NETWORK
    assert len(done.stdout.splitlines()) == 2


def test_c_is_short() -> None:
    """Whoever calls from C has little to write."""
    assert len((_EXAMPLES / "fetch.c").read_text().splitlines()) <= _LONGEST


def test_examples_are_executable() -> None:
    """Those that say what runs them can be run."""
    for path in map(_EXAMPLES.joinpath, _NAMES):
        assert os.access(path, os.X_OK) == path.read_bytes().startswith(b"#!")
