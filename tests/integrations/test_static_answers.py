"""Tests of static_answers: the rows of docs/http.md, one each, on both carriers."""

from __future__ import annotations

import http.client
import math
import os
import re
import socket
import ssl
import time
from email.utils import formatdate
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.doubles import OFFLOADS, check_descriptors, descriptors, until
from tests.integrations.browsing import MODIFIED, TEXT, Answer, Browser, Host
from tlsify.http.request import HTTP11, Request
from tlsify.integrations import static_answers

if TYPE_CHECKING:
    from tlsify.config import KtlsPolicy

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/http.md"
DATE = formatdate(MODIFIED, usegmt=True)
OLDER, NEWER = (formatdate(MODIFIED + by, usegmt=True) for by in (-1, 1))
GET = ("GET /text.txt HTTP/1.1", "Host: example.org")
SIZE = str(len(TEXT))

both = pytest.mark.parametrize("policy", OFFLOADS)


def test_every_row_has_its_test() -> None:
    """The table and this file name the same rows."""
    rows = re.findall(r"^\| (H\d+) \|", PAGE.read_text(), re.MULTILINE)
    tests = [f"H{number}" for name in globals() for number in re.findall(r"^test_h(\d+)_", name)]
    assert rows == tests == [f"H{number + 1}" for number in range(len(rows))]


def _tag(browser: Browser, path: str = "/text.txt", **fields: str) -> str:
    """Return a file's tag, once a change would show."""
    tag = ""

    def is_strong() -> bool:
        nonlocal tag
        tag = browser.ask(path, **fields).headers["etag"]
        return tag.startswith('"')

    until(is_strong)
    return tag


def _is_whole(answer: Answer) -> bool:
    return (answer.status, answer.body, "content-range" in answer.headers) == (200, TEXT, False)


# -- messages


@both
def test_h1_methods(site: Host, policy: KtlsPolicy) -> None:
    """GET and HEAD; any other is answered with those that there are."""

    def work(browser: Browser) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            answer = browser.ask("/text.txt", method)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD"), method
        assert browser.send("OPTIONS * HTTP/1.1", "Host: example.org").status == 405
        assert browser.ask("/text.txt").status == 200

    site.visit(work, policy)


@both
def test_h2_head(site: Host, policy: KtlsPolicy) -> None:
    """The header section is GET's, whatever the answer, and no content follows."""

    def work(browser: Browser) -> None:
        for path in ("/text.txt", "/", "/sub", "/missing", "/nothing.bin"):
            got, head = (browser.ask(path, method) for method in ("GET", "HEAD"))
            for answer in (got, head):
                del answer.headers["date"]
                if "etag" in answer.headers:  # weak while a change could go unseen
                    answer.headers["etag"] = answer.headers["etag"].removeprefix("W/")
            assert head == Answer(got.status, got.headers, b""), path
        tag = _tag(browser)
        assert browser.ask("/text.txt", "HEAD", If_None_Match=tag).status == 304
        assert browser.ask("/text.txt", "HEAD", If_Match='"x"').status == 412

    site.visit(work, policy)


@both
def test_h3_versions(site: Host, policy: KtlsPolicy) -> None:
    """What is neither HTTP/1.0 nor 1.1 is refused, and the connection ends."""

    def refused(*lines: str) -> int:
        def work(browser: Browser) -> int:
            answer = browser.send(*lines)
            assert browser.sock.recv(1) == b""
            return answer.status

        return site.visit(work, policy)

    assert refused("GET /text.txt") == 400
    assert refused("GET /text.txt HTTP/2.0", "Host: example.org") == 505
    assert refused("GET /text.txt HTTP/1.1") == 400  # no Host
    assert refused(*GET, "Host: example.org") == 400
    for host in ("", "a b", "/../", 'e"vil', "[::1", "a:b"):
        assert refused("GET /text.txt HTTP/1.1", f"Host: {host}") == 400
    assert refused("GET /text.txt HTTP/1.0", "Connection: close") == 200


@both
def test_h4_expect(site: Host, policy: KtlsPolicy) -> None:
    """Who waits for leave to send gets the answer at once, and the connection ends."""

    def work(browser: Browser) -> None:
        answer = browser.send(*GET, "Expect: 100-continue", "Content-Length: 5")
        assert _is_whole(answer)
        assert answer.headers["connection"] == "close"
        browser.sock.sendall(b"hello")
        assert browser.sock.recv(1) == b""

    site.visit(work, policy)


@both
def test_h5_content(site: Host, policy: KtlsPolicy) -> None:
    """What a GET carries is passed over, if it is sure where that ends; others wait for none."""

    def work(browser: Browser) -> None:
        for _ in range(2):
            assert _is_whole(browser.send(*GET, "Content-Length: 5", body=b"hello"))
        browser.sock.sendall("\r\n".join([*GET, "", ""]).encode() * 2)
        for _ in range(2):
            with http.client.HTTPResponse(browser.sock) as response:
                response.begin()
                assert len(response.read(100)) == 100
                break  # the rest of both is in its buffer

    site.visit(work, policy)

    def refused(browser: Browser) -> None:
        post = ("POST / HTTP/1.1", "Host: example.org", "Content-Length: 5")
        whole = browser.send(*post, body=b"hello")
        assert (whole.status, whole.headers.get("connection")) == (405, None)
        begun = browser.send(*post, body=b"he")
        assert (begun.status, begun.headers["connection"]) == (405, "close")
        assert browser.sock.recv(1) == b""

    site.visit(refused, policy)
    for lines in (
        (*GET, "Content-Length: 5", "Transfer-Encoding: chunked"),
        (*GET, "Content-Length: 5", "Content-Length: 5"),
        ("GET /text.txt HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: chunked"),
    ):

        def ambiguous(browser: Browser, lines: tuple[str, ...] = lines) -> None:
            assert browser.send(*lines, body=b"0\r\n\r\n").status == 400
            assert browser.sock.recv(1) == b""

        site.visit(ambiguous, policy)


def test_what_is_no_http_is_no_error_of_ours(site: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A client cannot fill the log with what it makes up; its address does not matter."""

    def work(browser: Browser) -> None:
        assert browser.send("nonsense", "of all kinds").status == 400

    site.visit(work)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}]


# -- names


@both
def test_h6_names(site: Host, policy: KtlsPolicy) -> None:
    """A name is bytes, which need be no text; what is encoded is data, and no separator."""
    names = (b"caf\xe9.txt", "café.txt".encode(), b"a b", b"100%", b"a?b#c", b"\xff\xfe", b"x\ny;")
    for name in names:
        (site.root / os.fsdecode(name)).write_bytes(name)

    def work(browser: Browser) -> None:
        for name in names:
            path = "/" + "".join(f"%{byte:02x}" for byte in name)
            assert browser.ask(path).body == name
        assert browser.ask("/caf%E9.txt").body == b"caf\xe9.txt"
        assert browser.ask("/caf%C3%A9.txt").body == "café.txt".encode()
        assert browser.ask("/a%20name.txt?text=1").body == b"spaced"
        assert browser.ask("/sub%2findex.html").status == 404
        assert browser.ask("/text.txt%00").status == 404
        for path in ("/%", "/%4", "/%zz", "/100%", "/%%34"):
            assert browser.ask(path).status == 400, path
        assert _is_whole(browser.send("GET http://other/text.txt HTTP/1.1", "Host: example.org"))
        for host in ("[::1]:443", "a_b.%41:", "192.0.2.1:1"):
            assert _is_whole(browser.send("GET /text.txt HTTP/1.1", f"Host: {host}"))

    site.visit(work, policy)


@both
def test_h7_dots(site: Host, policy: KtlsPolicy) -> None:
    """Dot segments go up inside of the folder, and no further."""

    def work(browser: Browser) -> None:
        for path in ("/./text.txt", "/sub/../text.txt", "/sub/%2E%2e/text.txt", "//text.txt"):
            assert _is_whole(browser.ask(path)), path
        assert browser.ask("/sub/..").body == b"<p>front</p>"
        for path in ESCAPES:
            answer = browser.ask(path)
            assert b"SECRET" not in answer.body, path
            assert b"root:" not in answer.body, path
            assert answer.status == 404, path

    site.visit(work, policy)


ESCAPES = (
    "/../secret",
    "/..%2fsecret",
    "/%2e%2e/secret",
    "/%2e%2e%2fsecret",
    "/sub/../../secret",
    "/sub/..%2f..%2fsecret",
    "/..%5csecret",
    "/../root-sibling/secret",
    "/../root/text.txt",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/" + "x" * 300,
    "/missing",
    "/text.txt/",
    "/text.txt/more",
    "/empty/../missing",
)


@both
def test_h8_links(site: Host, policy: KtlsPolicy) -> None:
    """Those that stay in the folder are followed, however spelled; the others lead nowhere."""
    (site.root / "absolute").symlink_to(site.root / "text.txt")
    (site.root / "sub/up").symlink_to("../sub/../text.txt")
    (site.root / "around").symlink_to(f"../{site.root.name}/text.txt")
    (site.root / "folder").symlink_to("sub")

    def work(browser: Browser) -> None:
        for path in ("/inside", "/absolute", "/sub/up", "/folder/up"):
            assert _is_whole(browser.ask(path)), path
        assert browser.ask("/folder").headers["location"] == "/folder/"
        for path in (
            *("/outside", "/up/secret", "/up/root-sibling/secret", "/feigned/", "/loop"),
            *("/up", "/up/", "/around"),
        ):
            answer = browser.ask(path)
            assert (answer.status, answer.body) == (404, b"404: Not Found"), path

    site.visit(work, policy)


@both
def test_h9_opened_once(site: Host, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged is what is sent: no rename in between makes a difference."""
    page = site.root / "text.txt"
    other = site.root / "other"
    swaps = iter(
        (
            lambda: other.symlink_to(site.root.parent / "secret"),
            lambda: os.mkfifo(other),
            other.mkdir,
        )
    )
    real = os.open

    def swapping(path: Any, *words: Any, **options: Any) -> int:
        if path == b"text.txt":  # it has been looked at, and is about to be opened
            next(swaps)()
            page.unlink()
            other.rename(page)
        return real(path, *words, **options)

    def work(browser: Browser) -> list[int]:
        monkeypatch.setattr(os, "open", swapping)
        statuses = []
        for _ in range(3):
            answer = browser.ask("/text.txt")
            assert b"SECRET" not in answer.body
            statuses.append(answer.status)
            page.rmdir() if page.is_dir() else page.unlink()
            page.write_bytes(TEXT)
        monkeypatch.undo()
        return statuses

    assert site.visit(work, policy) == [404, 404, 301]


@both
def test_h10_other_kinds(site: Host, policy: KtlsPolicy) -> None:
    """What is neither file nor folder is not found, and not even opened."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(site.root / "socket"))

        def work(browser: Browser) -> None:
            for path in ("/pipe", "/socket"):
                assert browser.ask(path).status == 404

        site.visit(work, policy)


@both
def test_h11_folders(site: Host, policy: KtlsPolicy) -> None:
    """A folder is its index.html, under a path with a slash; without it, it is moved there."""

    def work(browser: Browser) -> None:
        assert browser.ask("/").body == b"<p>front</p>"
        assert browser.ask("/sub/").body == b"<p>sub</p>"
        for path, location in (
            ("/sub", "/sub/"),
            ("/sub?x=1&y=%2F", "/sub/?x=1&y=%2F"),
            ("//sub", "/sub/"),
            ("///sub?a", "/sub/?a"),
            ("/%73ub", "/sub/"),
            ("/sub/../sub", "/sub/"),
        ):
            moved = browser.ask(path)
            assert (moved.status, moved.headers["location"]) == (301, location), path
        assert browser.ask("/empty").headers["location"] == "/empty/"
        assert browser.ask("/empty/").status == 404

    site.visit(work, policy)


@both
def test_h12_dotfiles(site: Host, policy: KtlsPolicy) -> None:
    """They are hidden unless asked for, apart from .well-known at the top; links may lead there."""
    for name in (".env", ".git/config", "sub/.htaccess", ".well-known/acme-challenge/token"):
        (site.root / name).parent.mkdir(parents=True, exist_ok=True)
        (site.root / name).write_text(name)
    (site.root / "sub/.well-known").mkdir()
    (site.root / "sub/.well-known/x").write_text("x")
    (site.root / "..data").mkdir()  # as Kubernetes mounts a ConfigMap
    (site.root / "..data/key").write_text("mounted")
    (site.root / "key").symlink_to("..data/key")
    hidden = ("/.env", "/.git/config", "/sub/.htaccess", "/%2eenv", "/.git", "/sub/.well-known/x")

    def work(browser: Browser) -> None:
        assert [browser.ask(path).status for path in hidden] == [404] * len(hidden)
        challenge = browser.ask("/.well-known/acme-challenge/token")
        assert challenge.body == b".well-known/acme-challenge/token"
        assert browser.ask("/key").body == b"mounted"

    site.visit(work, policy)

    def asked_for(browser: Browser) -> None:
        assert browser.ask("/.env").body == b".env"
        assert browser.ask("/.git").status == 301
        assert browser.ask("/.git/../../secret").status == 404

    site.visit(asked_for, policy, dotfiles=True)


@both
def test_h13_what_cannot_be_opened(
    site: Host, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forbidden is told from not found, and from a host that has no descriptors left."""
    codes = {b"denied": 13, b"leased": 11, b"starved": 24, b"broken": 5, b"stale": 116}
    for name in codes:
        (site.root / name.decode()).touch()
    real = os.open

    def failing(path: Any, *words: Any, **options: Any) -> int:
        if path in codes:
            raise OSError(codes[path], os.strerror(codes[path]))
        return real(path, *words, **options)

    def work(browser: Browser) -> None:
        monkeypatch.setattr(os, "open", failing)
        statuses = [browser.ask(f"/{name.decode()}").status for name in codes]
        monkeypatch.undo()
        assert statuses == [403, 503, 503, 500, 500]

    site.visit(work, policy)


# -- what is sent


@both
def test_h14_media_types(site: Host, policy: KtlsPolicy) -> None:
    """The name's ending tells the type, in lower case and upper case."""
    for name in ("page.HTML", "app.js", "font.woff2", "dump.tar.gz", "README", "odd.ending"):
        (site.root / name).write_text("x")

    def work(browser: Browser) -> None:
        found = {
            name: browser.ask(f"/{quote(name)}").headers["content-type"]
            for name in map(attrgetter("name"), site.root.iterdir())
            if "." in name or name == "README"
        }
        assert found == {
            "page.HTML": "text/html",
            "app.js": "text/javascript",
            "font.woff2": "font/woff2",
            "dump.tar.gz": "application/gzip",
            "README": "application/octet-stream",
            "odd.ending": "application/octet-stream",
            "text.txt": "text/plain",
            "index.html": "text/html",
            "nothing.bin": "application/octet-stream",
            "a name.txt": "text/plain",
        }

    site.visit(work, policy)


@both
def test_h15_etag(site: Host, policy: KtlsPolicy) -> None:
    """Another tag with each change, though date and size stay; weak while one could be missed."""

    def work(browser: Browser) -> None:
        first = _tag(browser)
        assert browser.ask("/text.txt").headers["etag"] == first
        assert re.fullmatch(r'"[0-9a-f-]+"', first)
        (site.root / "new").write_bytes(TEXT[::-1])
        os.utime(site.root / "new", (MODIFIED, MODIFIED))
        (site.root / "new").replace(site.root / "text.txt")
        changed = browser.ask("/text.txt")
        assert changed.headers["last-modified"] == DATE
        assert changed.headers["etag"].removeprefix("W/") != first

    site.visit(work, policy)


@both
def test_h16_last_modified(site: Host, policy: KtlsPolicy) -> None:
    """It is the file's, in whole seconds, and never later than now."""
    os.utime(site.root / "index.html", (MODIFIED, MODIFIED + 0.9))
    future = site.root / "future"
    future.touch()
    os.utime(future, (2**40, 2**40))

    def work(browser: Browser) -> None:
        assert browser.ask("/text.txt").headers["last-modified"] == DATE
        assert browser.ask("/").headers["last-modified"] == DATE
        answer = browser.ask("/future")
        year = int(answer.headers["last-modified"].split()[3])
        assert year <= time.gmtime().tm_year
        assert browser.ask("/future", If_Modified_Since=DATE).status == 200

    site.visit(work, policy)


# -- conditions


@both
def test_h17_if_match(site: Host, policy: KtlsPolicy) -> None:
    """It is compared strongly; if it fails nothing is sent."""

    def work(browser: Browser) -> None:
        tag = _tag(browser)
        for field in (tag, "*", f'"x", {tag}', f'"a,b",,{tag}'):
            assert _is_whole(browser.ask("/text.txt", If_Match=field)), field
        for field in ('"x"', f"W/{tag}", tag.strip('"'), "", '"*"', f"nonsense, {tag}"):
            failed = browser.ask("/text.txt", If_Match=field)
            assert failed.status == 412, field
            assert failed.headers["etag"] == tag
        assert browser.send(*GET, 'If-Match: "x"', f"If-Match: {tag}").status == 200

    site.visit(work, policy)


@both
def test_h18_if_unmodified_since(site: Host, policy: KtlsPolicy) -> None:
    """It counts where there is no If-Match, and where it is a date."""

    def work(browser: Browser) -> None:
        tag = _tag(browser)
        assert browser.ask("/text.txt", If_Unmodified_Since=OLDER).status == 412
        for fields in (
            {"If_Unmodified_Since": DATE},
            {"If_Unmodified_Since": NEWER},
            {"If_Unmodified_Since": "yesterday"},
            {"If_Unmodified_Since": OLDER, "If_Match": tag},
        ):
            assert _is_whole(browser.ask("/text.txt", **fields)), fields

    site.visit(work, policy)


@both
def test_h19_if_none_match(site: Host, policy: KtlsPolicy) -> None:
    """It is compared weakly; what the client has is not sent again, but its validators are."""

    def work(browser: Browser) -> None:
        tag = _tag(browser)
        for field in (tag, f"W/{tag}", "*", f'W/"x" , {tag}'):
            unchanged = browser.ask("/text.txt", If_None_Match=field)
            assert (unchanged.status, unchanged.body) == (304, b""), field
            assert unchanged.headers["etag"] == tag
            assert not {"content-length", "content-type"} & unchanged.headers.keys()
        for field in ('"x"', tag.strip('"'), "", '"*"'):
            assert _is_whole(browser.ask("/text.txt", If_None_Match=field)), field

    site.visit(work, policy)


@both
def test_h20_if_modified_since(site: Host, policy: KtlsPolicy) -> None:
    """It counts where there is no If-None-Match, and where it is one date, in whichever form."""

    def work(browser: Browser) -> None:
        for since in (
            *(DATE, NEWER),
            *("Friday, 14-Jul-17 02:40:00 GMT", "Fri Jul 14 02:40:00 2017"),
        ):
            assert browser.ask("/text.txt", If_Modified_Since=since).status == 304, since
        for since in (OLDER, "yesterday", "0", "", f"{DATE}, {DATE}", DATE.replace("14", "99")):
            assert _is_whole(browser.ask("/text.txt", If_Modified_Since=since)), since
        assert _is_whole(browser.send(*GET, *2 * [f"If-Modified-Since: {DATE}"]))
        fields = {"If_None_Match": '"x"', "If_Modified_Since": DATE}
        assert _is_whole(browser.ask("/text.txt", **fields))

    site.visit(work, policy)


@both
def test_h21_precedence(site: Host, policy: KtlsPolicy) -> None:
    """If-Match is first and Range is last; where there is no file there is no condition."""

    def work(browser: Browser) -> None:
        tag = _tag(browser)
        fields = {"If_Match": '"x"', "If_None_Match": tag, "Range": "bytes=0-0"}
        assert browser.ask("/text.txt", **fields).status == 412
        fields["If_Match"] = tag
        assert browser.ask("/text.txt", **fields).status == 304
        fields["If_None_Match"] = '"x"'
        assert browser.ask("/text.txt", **fields).status == 206
        assert browser.ask("/text.txt", Range="bytes=999999-", If_None_Match=tag).status == 304
        assert browser.ask("/missing", If_Match="*").status == 404
        assert browser.ask("/missing", If_None_Match="*").status == 404
        assert browser.ask("/sub", If_None_Match="*").status == 301
        assert browser.ask("/text.txt", "POST", If_None_Match="*").status == 405

    site.visit(work, policy)


# -- ranges


@both
def test_h22_range(site: Host, policy: KtlsPolicy) -> None:
    """One range of bytes is answered with them, and with where they are."""

    def work(browser: Browser) -> None:
        assert browser.ask("/text.txt").headers["accept-ranges"] == "bytes"
        for field, first, last in (
            ("bytes=5-14", 5, 14),
            ("bytes=0-0", 0, 0),
            ("bytes=199995-", 199995, 199999),
            ("bytes=199998-200005", 199998, 199999),
            ("bytes=-3", 199997, 199999),
            ("bytes=-999999", 0, 199999),
            ("BYTES=1-2", 1, 2),
            (f"bytes=1-{'9' * 4500}", 1, 199999),
            (f"bytes=-{'9' * 4500}", 0, 199999),
            ("bytes=1-2,", 1, 2),
        ):
            part = browser.ask("/text.txt", Range=field)
            assert (part.status, part.body) == (206, TEXT[first : last + 1]), field
            assert part.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
            assert part.headers["content-length"] == str(last - first + 1)

    site.visit(work, policy)


@both
def test_h23_unsatisfiable(site: Host, policy: KtlsPolicy) -> None:
    """A range without a byte of the file is refused, and how many there are is told."""

    def work(browser: Browser) -> None:
        for field in ("bytes=200000-", "bytes=200000-200005", "bytes=-0", f"bytes={'9' * 4500}-"):
            refused = browser.ask("/text.txt", Range=field)
            assert refused.status == 416, field
            assert refused.headers["content-range"] == f"bytes */{SIZE}"
        assert browser.ask("/nothing.bin", Range="bytes=0-").status == 416
        assert browser.ask("/nothing.bin", Range="bytes=-5").status == 200

    site.visit(work, policy)


@both
def test_h24_ranges_to_ignore(site: Host, policy: KtlsPolicy) -> None:
    """Other units, several ranges and nonsense are ignored, and so is a range for HEAD."""

    def work(browser: Browser) -> None:
        for field in (
            *("items=0-1", "lines=1-2", "bytes=0-1,3-4", "bytes=0-1, -1", "bytes=999999-,0-1"),
            *("bytes=2-1", "bytes=", "bytes=-", "bytes=a-b", "bytes", "0-1", "", "bytes=1 -2"),
            *("bytes=+1-2", "bytes=0x1-2", "bytes=1-2-3", "bytes=--1"),
        ):
            assert _is_whole(browser.ask("/text.txt", Range=field)), field
        assert _is_whole(browser.send(*GET, "Range: bytes=0-1", "Range: bytes=3-4"))
        for field in ("bytes=0-1", "bytes=999999-"):
            head = browser.ask("/text.txt", "HEAD", Range=field)
            assert (head.status, head.headers["content-length"]) == (200, SIZE)

    site.visit(work, policy)


@both
def test_h25_if_range(site: Host, policy: KtlsPolicy) -> None:
    """A part is for who has the rest of the same bytes: one strong tag, or the very date."""

    def work(browser: Browser) -> None:
        tag = _tag(browser)
        for field in (tag, DATE):
            part = browser.ask("/text.txt", Range="bytes=2-3", If_Range=field)
            assert (part.status, part.body) == (206, b"23"), field
        for field in (
            *('"x"', f"W/{tag}", f"{tag}, {tag}", f'"x", {tag}', "*", "", tag.strip('"')),
            *(OLDER, NEWER, "yesterday"),
        ):
            answer = browser.ask("/text.txt", Range="bytes=2-3", If_Range=field)
            assert _is_whole(answer), field
            beyond = browser.ask("/text.txt", Range="bytes=999999-", If_Range=field)
            assert _is_whole(beyond), field
        assert _is_whole(browser.ask("/text.txt", If_Range=tag))
        (site.root / "text.txt").write_bytes(TEXT[::-1])
        answer = browser.ask("/text.txt", Range="bytes=2-", If_Range=tag)
        assert (answer.status, answer.body) == (200, TEXT[::-1])
        date = answer.headers["last-modified"]  # of this second, which is not over
        if date == answer.headers["date"]:
            again = browser.ask("/text.txt", Range="bytes=2-", If_Range=date)
            assert again.status == 200 or again.headers["date"] != date

    site.visit(work, policy)


# -- variants in a content coding


def _variants(root: Path) -> None:
    for ending, content in (("gz", b"gzipped"), ("br", b"brotli")):
        variant = root / f"text.txt.{ending}"
        variant.write_bytes(content)
        os.utime(variant, (MODIFIED, MODIFIED))


@both
def test_h26_no_variant_unasked(site: Host, policy: KtlsPolicy) -> None:
    """A file beside another is just a file."""
    _variants(site.root)

    def work(browser: Browser) -> None:
        answer = browser.ask("/text.txt", Accept_Encoding="gzip, br")
        assert _is_whole(answer)
        assert not {"content-encoding", "vary"} & answer.headers.keys()
        assert browser.ask("/text.txt.gz").headers["content-type"] == "application/gzip"

    site.visit(work, policy)


@both
def test_h27_variants(site: Host, policy: KtlsPolicy) -> None:
    """With --precompressed they are sent to who accepts them, by weight."""
    _variants(site.root)

    def work(browser: Browser) -> None:
        for accepted, coding in (
            ("gzip, br", "br"),
            ("gzip", "gzip"),
            ("x-gzip", "gzip"),
            ("GZIP;Q=0.5", "gzip"),
            ("br;q=0.5, gzip;q=0.8", "gzip"),
            ("*", "br"),
            ("br;q=0, *", "gzip"),
            ("identity;q=0.5, gzip", "gzip"),
            ("gzip;q=0, identity", None),
            ("gzip;q=0.000", None),
            ("gzip;q=0.5, identity;q=1", None),
            ("*;q=0", None),
            ("notgzip, gzipped", None),
            ("gzip;q=2", None),
            ("deflate, zstd", None),  # there is none
            ("", None),
        ):
            answer = browser.ask("/text.txt", Accept_Encoding=accepted)
            assert answer.status == 200
            assert answer.headers.get("content-encoding") == coding, accepted
            content = {"br": b"brotli", "gzip": b"gzipped", None: TEXT}[coding]
            assert answer.body == content, accepted
            assert answer.headers["content-type"] == "text/plain"
            assert answer.headers["vary"] == "Accept-Encoding"
        assert _is_whole(browser.send(*GET))

    site.visit(work, policy, precompressed=True)


@both
def test_zstd(site: Host, policy: KtlsPolicy) -> None:
    """It is one more coding, behind brotli where both are as good."""
    _variants(site.root)
    (site.root / "text.txt.zst").write_bytes(b"zstd")

    def work(browser: Browser) -> None:
        for accepted, body in (("zstd", b"zstd"), ("gzip, br, zstd", b"brotli")):
            assert browser.ask("/text.txt", Accept_Encoding=accepted).body == body

    site.visit(work, policy, precompressed=True)


@both
def test_index_and_listing(site: Host, policy: KtlsPolicy) -> None:
    """The first index that there is, or else a list, without what is not served."""
    (site.root / "sub" / "b.html").write_text("b")
    (site.root / "bare").mkdir()
    (site.root / "bare" / ".hidden").write_text("x")
    (site.root / "bare" / "a&b").write_text("x")
    (site.root / "out").symlink_to(site.root.parent)

    def work(browser: Browser) -> None:
        assert browser.ask("/sub/").body == b"b"
        assert browser.ask("/bare").status == 301
        listed = browser.ask("/bare/")
        assert listed.status == 200
        assert listed.headers["content-type"] == "text/html; charset=utf-8"
        assert b'<a href="./a%26b">a&amp;b</a>' in listed.body
        assert b"hidden" not in listed.body
        assert browser.ask("/bare/", "HEAD").headers["content-length"] == str(len(listed.body))
        for path in ("/out/", "/none/", "/text.txt/", "/.hidden/"):
            assert browser.ask(path).status == 404, path

    site.visit(work, policy, index=(b"a.html", b"b.html"), listing=True)


@both
def test_content_of_not_found(site: Host, policy: KtlsPolicy) -> None:
    """The file says it, whole, whatever is asked; its own lack is no worse than without."""
    (site.root / "gone.html").write_text("gone" * 10_000)

    def work(browser: Browser) -> None:
        asked = {"Range": "bytes=0-0", "If_None_Match": "*"}
        for path in ("/none", "/sub/none/", "/.hidden"):
            answer = browser.ask(path, **asked)
            assert (answer.status, answer.body) == (404, b"gone" * 10_000)
            assert answer.headers["content-type"] == "text/html"
            assert "etag" not in answer.headers
        assert browser.ask("/none", "HEAD").headers["content-length"] == "40000"
        (site.root / "gone.html").unlink()
        assert browser.ask("/none").body == b"404: Not Found"

    site.visit(work, policy, not_found=(b"gone.html",))


def test_lists_that_are_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is made once in a while, whoever asks for it, and few of them are kept."""
    folder = static_answers.Folder(tmp_path, rules=static_answers.Rules(listing=True))

    def listed(target: str = "/") -> Any:
        request = Request("GET", target, HTTP11, {"host": "x"}, 1, persists=True)
        return folder.answer(request).content

    monkeypatch.setattr(static_answers, "_FRESH", math.inf)
    monkeypatch.setattr(static_answers, "_MOST_LISTS", 2)
    first = listed()
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    assert listed() == first
    for name in ("b", "c"):
        listed(f"/{name}/")
    assert len(folder._lists) == 2
    assert listed() != first
    monkeypatch.setattr(static_answers, "_FRESH", 0.0)
    (tmp_path / "d").mkdir()
    assert b"d/" in listed()


def test_fields_of_ones_own(site: Host) -> None:
    """They are in every answer; Cache-Control is about files, and a 304."""

    def work(browser: Browser) -> None:
        first = browser.ask("/text.txt")
        again = browser.ask("/text.txt", If_None_Match=first.headers["etag"])
        missing, bad = browser.ask("/none"), browser.send("GET / HTTP/1.1")
        answers = (first, again, missing, bad)
        assert [each.status for each in answers] == [200, 304, 404, 400]
        assert [each.headers.get("x-a") for each in answers] == 4 * ["b"]
        cached = ["max-age=60", "max-age=60", None, None]
        assert [each.headers.get("cache-control") for each in answers] == cached
        assert not any("server" in each.headers for each in answers)

    site.visit(work, fields="X-A: b\r\n", cache_control="max-age=60")


@both
def test_h28_variants_are_fresh(site: Host, policy: KtlsPolicy) -> None:
    """One that is older than the file, or no file in the folder, is left alone."""
    _variants(site.root)
    os.utime(site.root / "text.txt.br", ns=(0, MODIFIED * 10**9 - 1))

    def work(browser: Browser) -> None:
        assert browser.ask("/text.txt", Accept_Encoding="gzip, br").body == b"gzipped"
        (site.root / "text.txt.gz").unlink()
        for make in (
            lambda path: path.mkdir(),
            lambda path: path.symlink_to(site.root.parent / "secret"),
            os.mkfifo,
        ):
            make(site.root / "text.txt.gz")
            assert _is_whole(browser.ask("/text.txt", Accept_Encoding="gzip, br"))
            (site.root / "text.txt.gz").rename(site.root.parent / f"{make}")

    site.visit(work, policy, precompressed=True)


@both
def test_h29_variants_have_validators(site: Host, policy: KtlsPolicy) -> None:
    """Conditions and ranges are about what is sent; each variant has a tag of its own."""
    _variants(site.root)

    def work(browser: Browser) -> None:
        plain, coded = (_tag(browser, Accept_Encoding=each) for each in ("identity", "gzip"))
        assert plain != coded
        answer = browser.ask("/text.txt", Accept_Encoding="gzip", If_None_Match=coded)
        assert (answer.status, answer.headers["vary"]) == (304, "Accept-Encoding")
        answer = browser.ask("/text.txt", Accept_Encoding="gzip", If_None_Match=plain)
        assert (answer.status, answer.body) == (200, b"gzipped")
        fields = {"Accept_Encoding": "gzip", "Range": "bytes=2-3"}
        part = browser.ask("/text.txt", **fields, If_Range=coded)
        assert (part.status, part.body) == (206, b"ip")
        assert part.headers["content-range"] == "bytes 2-3/7"
        assert browser.ask("/text.txt", **fields, If_Range=plain).body == b"gzipped"

    site.visit(work, policy, precompressed=True)


# -- changes under way

BIG = 32_000_000  # more than all buffers on the way


@both
def test_h30_shorter_under_way(
    site: Host, policy: KtlsPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection ends without close_notify: the next answer would be taken for the rest."""
    (site.root / "text.txt").write_bytes(bytes(BIG))

    def work(browser: Browser) -> None:
        browser.sock.sendall("\r\n".join([*GET, "", ""]).encode())
        response = http.client.HTTPResponse(browser.sock)
        response.begin()
        os.truncate(site.root / "text.txt", 2000)
        with response, pytest.raises((ssl.SSLEOFError, ConnectionError)):
            response.read()

    site.visit(work, policy)
    assert caplog.text.count("connection ended: a file had") == 1


@both
def test_h31_longer_under_way(site: Host, policy: KtlsPolicy) -> None:
    """What was announced is sent, and no more; the next answer has it all."""
    (site.root / "text.txt").write_bytes(bytes(BIG))

    def work(browser: Browser) -> None:
        browser.sock.sendall("\r\n".join([*GET, "", ""]).encode())
        response = http.client.HTTPResponse(browser.sock)
        response.begin()
        with (site.root / "text.txt").open("ab") as file, response:
            file.write(b"more")
            file.flush()
            assert len(response.read()) == BIG
        assert len(browser.ask("/text.txt").body) == BIG + 4

    site.visit(work, policy)


@both
def test_h32_replaced_under_way(site: Host, policy: KtlsPolicy) -> None:
    """An answer that has begun is finished with the old file, and so is a part of it."""
    (site.root / "text.txt").write_bytes(bytes(BIG))
    (site.root / "other").write_bytes(TEXT)

    def work(browser: Browser) -> None:
        browser.sock.sendall("\r\n".join([*GET, "", ""]).encode())
        response = http.client.HTTPResponse(browser.sock)
        response.begin()
        with response:
            (site.root / "other").replace(site.root / "text.txt")
            assert response.read() == bytes(BIG)
        assert browser.ask("/text.txt").body == TEXT

    site.visit(work, policy)


def test_files_are_closed(site: Host) -> None:
    """Whatever the answer is, nothing stays open."""
    _variants(site.root)

    def work(browser: Browser) -> None:
        tag = _tag(browser)
        # The last byte of a file may be here before the file is closed over there.
        until(lambda: not any("text.txt" in each for each in descriptors()))
        before = descriptors()
        for method in ("GET", "HEAD", "POST"):
            for fields in (
                {},
                {"Range": "bytes=0-1"},
                {"Range": "bytes=999999-"},
                {"If_Match": '"x"'},
                {"If_None_Match": tag},
                {"Accept_Encoding": "gzip"},
            ):
                for path in ("/text.txt", "/nothing.bin", "/sub", "/inside", "/outside", "/pipe"):
                    browser.ask(path, method, **fields)
        check_descriptors(before)

    site.visit(work, precompressed=True)
