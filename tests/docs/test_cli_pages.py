"""The command's pages: complete, up to date, and every example on them works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import Place
from tests.docs.examples import OVERVIEW, PAGES, PROJECT, Reader, examples
from tests.interop.programs import TIMEOUT
from tests.provision import find
from tlsify.cli.parser import VERBS
from tlsify.cli.program.ucspi import _SET, _SET_OF_EACH_SIDE
from tlsify.cli.report.exit_codes import GROUPS
from tlsify.errors import ReasonCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

_SECTIONS = ["Interface", "Options", "Exit codes", "Environment", "Notes", "Examples"]
_NAMES = [page.stem for page in PAGES]
# Findings of "tlsify check" that are no reasons to relay.

# -- examples

_WEB = r"""
while read -r line && [ "${#line}" -gt 1 ]; do :; done
printf 'HTTP/1.0 200 OK\r\n\r\nhello from localhost\n'
"""


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from localhost\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture(scope="module")
def plain_port() -> Iterator[int]:
    """A web server without TLS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def place(authority: trustme.CA, tmp_path: Path) -> Place:
    """A reader's folder, with a certificate for localhost."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = Place(tmp_path, "", tmp_path / "ca.pem")
    made.certify(authority.issue_cert("localhost"))
    # The command itself: one example is about what it is called.
    (tmp_path / "bin/tlsify").unlink()
    (tmp_path / "bin/tlsify").symlink_to(f"{sys.prefix}/bin/tlsify")
    return made


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("page", PAGES, ids=_NAMES)
def test_examples_work(page: Path, place: Place, plain_port: int) -> None:
    """Who follows a page from its first example to its last sees what it says."""
    assert examples(page)
    smtp = next(each for each in examples(PROJECT / "docs/cli/listen.md") if each.file)
    place.write("mail.py", smtp.text)
    listen = "tlsify listen --cert cert.pem --key key.pem"
    place.write("web.sh", _WEB)
    web = f"{listen} --alpn http/1.1 127.0.0.1 0 -- sh web.sh"
    mail = f"{listen} --ucspi-tls 127.0.0.1 0 -- python3 mail.py"
    said = ".*" if page.stem == "connect" else ""  # one example is a client that refuses it
    with place.serving(web, said) as web_port, place.serving(mail) as mail_port:
        ports = {"443": web_port, "80": plain_port, "25": mail_port}
        Reader(place, ports).follow(page)


# -- completeness


@pytest.mark.parametrize("page", PAGES, ids=_NAMES)
def test_pages_have_the_same_sections(page: Path) -> None:
    """A reader finds everything in the same place on each page."""
    assert re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) == _SECTIONS


def test_every_verb_has_a_page() -> None:
    """The overview leads to each of them."""
    assert {page.stem for page in PAGES} - {"cli"} == set(VERBS)
    assert re.findall(r"^\| \[`(\w+)`\]\(cli/\1\.md\)", OVERVIEW.read_text(), re.MULTILINE) == [
        *VERBS
    ]


def test_every_option_in_the_text_exists() -> None:
    """What the prose and the examples mention is in one of the tables, which the parsers fill."""
    pages = [page.read_text() for page in PAGES]
    known = set()
    for page in pages:
        for row in re.findall(r"^\| (`-.*?) \|", page, re.MULTILINE):
            known |= set(re.findall(r"--?[a-z][a-z-]*", row))
    assert {"--ktls", "--ktls-any-kernel", "--fd", "-v", "-s"} <= known
    for page in pages:
        mentioned = set(re.findall(r"(?<=`)--[a-z][a-z-]*", page))
        for command in re.findall(
            r"tlsify (?:-[^ ]+ )*(?:connect|accept|listen|serve|agent) .*", page
        ):
            mentioned |= set(re.findall(r"(?<= )--[a-z][a-z-]+", command.partition(" -- ")[0]))
        assert mentioned - {"--help", "--version"} <= known


def test_every_exit_code_is_listed() -> None:
    """The overview's table is that of the source."""
    section = OVERVIEW.read_text().partition("## Exit codes")[2].partition("## Environment")[0]
    assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == [
        str(int(code)) for group in GROUPS for code in group.codes
    ]


def test_every_reason_is_listed() -> None:
    """What a connection may give as the reason for being relayed can be looked up."""
    section = OVERVIEW.read_text().partition("### Reasons")[2].partition("\n### ")[0]
    listed = set()
    for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        listed |= set(re.findall(r"`(.*?)`", row))
    assert listed == set(ReasonCode)


def test_every_variable_of_a_program_is_listed() -> None:
    """What PROG may find is in the overview."""
    section = OVERVIEW.read_text().partition("### Environment of PROG")[2].partition("## ")[0]
    listed = set(re.findall(r"`([A-Z_]+)`", section.partition("`CAFILE`")[0]))
    sides = {f"{name}{part}" for name in _SET_OF_EACH_SIDE for part in ("IP", "PORT")}
    assert listed - {"SSL"} == {*_SET, *sides}


def test_every_variable_that_is_read_is_listed() -> None:
    """Whatever the source looks up in the environment is on the overview, and on verbs' pages."""
    read = set()
    for path in (PROJECT / "tlsify").rglob("*.py"):
        read |= set(re.findall(r"environ(?:ment)?\.(?:get|pop)\(\"([A-Z_]+)\"", path.read_text()))
        read |= set(re.findall(r"_from_environment\(\"([A-Z_]+)\"", path.read_text()))
    assert {"CAFILE", "KEYFILE", "SSLKEYLOGFILE", "NOTIFY_SOCKET"} <= read
    for name in read - {"HOME"}:
        assert f"`{name}`" in OVERVIEW.read_text()
        assert any(f"`{name}`" in page.read_text() for page in PAGES if page != OVERVIEW)


def test_links_lead_somewhere() -> None:
    """Files that the pages refer to exist, and so do the headings in them."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            assert path.exists(), target
            if not anchor:  # it may be a picture
                continue
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {h.lower().replace(" ", "-") for h in headings}, target


# -- what is made of the pages


def test_what_is_made_of_them_is_up_to_date() -> None:
    """Option tables, man pages and completion are those of today's parsers."""
    words = [sys.executable, str(PROJECT / "scripts/cli_docs"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["tlsify", *(f"tlsify-{verb}" for verb in VERBS)])
def test_man_page_is_well_formed(name: str) -> None:
    """Neither groff nor mandoc finds anything wrong with it."""
    path = PROJECT / f"share/man/man1/{name}.1"
    done = subprocess.run(
        [find("man"), "--warnings", "-E", "UTF-8", "-l", path],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
    )
    assert done.stderr == ""
    assert f"{name} - " in re.sub(" +", " ", done.stdout)
    lint = subprocess.run(
        [find("mandoc"), "-T", "lint", "-W", "warning", path],
        capture_output=True,
        text=True,
        check=False,
    )
    # A date would have to be changed by hand, or would change by itself.
    complaints = [line for line in lint.stdout.splitlines() if "missing date" not in line]
    assert complaints == []


def test_man_pages_keep_the_words_of_links() -> None:
    """Unless these are the name of the other page, whose form is a man page's."""
    folder = PROJECT / "share/man/man1"
    checked, connected = (
        (folder / f"tlsify-{verb}.1").read_text() for verb in ("check", "connect")
    )
    assert r"it checks a configuration file (see \fBtlsify\fP(1))" in checked
    assert r"a \fBtlsify\-agent\fP(1)" in connected
