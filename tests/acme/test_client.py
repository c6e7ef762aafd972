"""Tests of client, with authorities that do as they like; `test_renewal` has an honest one."""

from __future__ import annotations

import errno
import json
import select
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from acme import client as package

from tests.renewal.answering import Answering, reply
from tlsify.acme.board import Board
from tlsify.acme.client import Client, _seconds
from tlsify.acme.failures import AcmeError
from tlsify.acme.settings import Authority
from tlsify.credentials.self_signed import make_key_pair
from tlsify.metrics.counters import Event
from tlsify.renewal.folder import Folder
from tlsify.renewal.web import Deadline

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

    from tlsify.credentials.anchors import TrustAnchors

_NAME = "a.example"
_TOKEN = "x" * 43


class Odd:
    """An authority that does what RFC 8555 wants, apart from what a test replaces.

    Attributes:
        answers: by path; bytes, or what becomes JSON.
        server: that sends them.
    """

    def __init__(self, leaf: trustme.LeafCert, **answers: Any) -> None:
        """Prepare; names of paths have "_" for "/"."""
        self.server = Answering(self._answer, leaf)
        url = self.server.url
        paths = ("newNonce", "newAccount", "newOrder", "renewalInfo", "revokeCert")
        challenge = {"type": "tls-alpn-01", "url": f"{url}/challenge", "token": _TOKEN}
        identifier = {"type": "dns", "value": _NAME}
        self.answers: dict[str, Any] = {
            "directory": {path: f"{url}/{path}" for path in paths},
            "newNonce": b"",
            "newAccount": {"status": "valid"},
            "newOrder": {
                "status": "pending",
                "identifiers": [identifier],
                "authorizations": [f"{url}/authorization"],
                "finalize": f"{url}/finalize",
            },
            "authorization": {
                "status": "pending",
                "identifier": identifier,
                "challenges": [challenge],
            },
            "challenge": challenge,
            "finalize": {"status": "processing", "authorizations": []},
            "order": {"status": "invalid", "authorizations": []},
        }
        for path, answer in answers.items():
            spoiled = answer(self.answers[path]) if callable(answer) else answer
            self.answers[path] = spoiled

    def _answer(self, request: bytes) -> bytes | None:
        path = request.split(b" ")[1].decode().strip("/")
        found = self.answers[path]
        if found is None or (isinstance(found, bytes) and found.startswith(b"HTTP/")):
            return found
        fields = ("Replay-Nonce: bm9uY2U", f"Location: {self.server.url}/order")
        up = f'Link: <{self.server.url}/authorization>;rel="up"'
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        return reply(content, *fields, up, "Content-Type: application/json")


@pytest.fixture(autouse=True)
def _no_second_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package sleeps a second before it asks again."""

    def nap(_: float) -> None:
        select.select([], [], [], 0.02)

    monkeypatch.setattr(package, "time", SimpleNamespace(sleep=nap))


@pytest.fixture
def leaf(authority: trustme.CA) -> trustme.LeafCert:
    """A certificate for the authority's server."""
    return authority.issue_cert("localhost")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    return Folder(tmp_path / "folder", "the folder").check()


def failure(odd: Odd, trust: TrustAnchors, folder: Folder, seconds: float = 60) -> AcmeError:
    """Return what an order fails of."""
    board = Board()

    def order() -> bytes:
        authority = Authority(f"{odd.server.url}/directory", trust)
        return Client(authority, folder, Deadline(seconds)).obtain((_NAME,), board)

    with odd.server, pytest.raises(AcmeError) as caught:
        order()
    assert board.tls(_NAME) is None
    return caught.value


def problem(kind: str, *fields: str, status: str = "403 Forbidden") -> bytes:
    """Spell an error as RFC 8555 6.7 has it."""
    content = json.dumps({"type": f"urn:ietf:params:acme:error:{kind}", "detail": "planted"})
    more = ("Replay-Nonce: bm9uY2U", "Content-Type: application/problem+json")
    return reply(content.encode(), *more, *fields, status=status)


def _without(key: str) -> Any:
    return lambda answer: {name: value for name, value in answer.items() if name != key}


def _with(**values: Any) -> Any:
    return lambda answer: {**answer, **values}


_ELSEWHERE = reply(b"", "Location: https://localhost:1/", status="302 Found")
_HUGE = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2**18
_DEEP = b"[" * 50_000
_BAD = Event.ACME_MALFORMED


@pytest.mark.parametrize(
    ("answers", "event", "why"),
    [
        ({"directory": _ELSEWHERE}, Event.ACME_UNREACHABLE, "it leads elsewhere"),
        ({"directory": _HUGE}, Event.ACME_UNREACHABLE, "longer than 131072 bytes"),
        ({"directory": b"HTTP/nonsense"}, Event.ACME_UNREACHABLE, "no HTTP"),
        ({"directory": _DEEP}, _BAD, "not understood"),
        ({"directory": []}, _BAD, "not understood"),
        ({"directory": b"garbage"}, _BAD, "not understood"),
        ({"directory": {}}, _BAD, "newAccount"),
        ({"directory": _with(newNonce="http://localhost/")}, Event.ACME_UNREACHABLE, "by https"),
        ({"directory": _with(newNonce="file:///etc/passwd")}, Event.ACME_UNREACHABLE, "by https"),
        ({"directory": _with(meta={"externalAccountRequired": True})}, Event.ACME_REFUSED, "named"),
        ({"newNonce": problem("serverInternal", status="500 Bad")}, _BAD, "status 500"),
        ({"newAccount": problem("badNonce", status="400 Bad")}, Event.ACME_REFUSED, "badNonce"),
        ({"newAccount": problem("userActionRequired")}, Event.ACME_REFUSED, "planted"),
        ({"newAccount": problem("rateLimited", "Retry-After: 7")}, Event.ACME_RATE_LIMITED, "many"),
        ({"newOrder": problem("rejectedIdentifier")}, Event.ACME_REFUSED, "planted"),
        ({"newOrder": 7}, _BAD, "not understood"),
        ({"newOrder": _with(authorizations=7)}, _BAD, "not understood"),
        ({"newOrder": _with(status="odd")}, _BAD, "not recognized"),
        ({"authorization": _with(challenges=[])}, Event.ACME_REFUSED, "no tls-alpn-01 .* nothing"),
        ({"authorization": _with(identifier={"type": "dns", "value": "x"})}, _BAD, "another name"),
        ({"authorization": _without("identifier")}, _BAD, "not understood"),
        (
            {"authorization": _with(challenges=[{"type": "tls-alpn-01", "token": "../x"}])},
            *(_BAD, "token is none"),
        ),
        ({"challenge": problem("malformed")}, Event.ACME_REFUSED, "planted"),
        ({"authorization": _with(status="valid")}, _BAD, "order failed"),
        (
            {
                "authorization": _with(status="valid"),
                "order": {
                    "status": "invalid",
                    "authorizations": [],
                    "error": {"type": "urn:ietf:params:acme:error:caa", "detail": "planted"},
                },
            },
            *(Event.ACME_REFUSED, "planted"),
        ),
    ],
)
def test_authority_that_does_otherwise(
    leaf: trustme.LeafCert,
    trust: TrustAnchors,
    folder: Folder,
    answers: dict[str, Any],
    event: Event,
    why: str,
) -> None:
    """The error says of what; nothing is followed, and nothing is left pending."""
    error = failure(Odd(leaf, **answers), trust, folder)
    assert error.event is event, error
    assert error.hint
    with pytest.raises(AcmeError, match=why):
        raise error
    if event is Event.ACME_RATE_LIMITED:
        assert error.wait == 7


def test_authority_that_takes_its_time(
    leaf: trustme.LeafCert, trust: TrustAnchors, folder: Folder
) -> None:
    """One that does not answer, or never decides, has until the deadline."""
    for answers, event in (
        ({"directory": None}, Event.ACME_UNREACHABLE),
        ({}, Event.ACME_TOO_SLOW),
    ):
        error = failure(Odd(leaf, **answers), trust, folder, seconds=1)
        assert error.event in {event, Event.ACME_UNREACHABLE}, error


def test_server_of_another(authority: trustme.CA, trust: TrustAnchors, folder: Folder) -> None:
    """An authority whose own certificate is not trusted is told nothing."""
    odd = Odd(authority.issue_cert("other.example"))
    error = failure(odd, trust, folder)
    assert error.event is Event.ACME_UNREACHABLE
    assert odd.server.requests == []


def test_folder_that_takes_nothing(
    leaf: trustme.LeafCert, trust: TrustAnchors, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is none of the authority's."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "planted")

    board = Board()
    monkeypatch.setattr(board, "publish", refuse)
    with Odd(leaf).server as server:
        client = Client(Authority(f"{server.url}/directory", trust), folder, Deadline(60))
        with pytest.raises(OSError, match="planted"):
            client.obtain((_NAME,), board)


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        *((None, 0), ("", 0), ("7", 7), ("1" * 400, 86400), ("-7", 0), ("x", 0)),
        *(("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("Thu, 99 Jan 1970 00:00:00 GMT", 0)),
    ],
)
def test_time_to_wait(field: str | None, seconds: float) -> None:
    """It is a number or a date, and bounded."""
    assert _seconds(field) == seconds


def test_renewal_time_of_no_use(
    leaf: trustme.LeafCert, trust: TrustAnchors, folder: Folder
) -> None:
    """An authority without renewal times says nothing; what it says else is bounded or refused."""
    pem = make_key_pair([_NAME]).certificate_pem()
    with Odd(leaf, directory=_without("renewalInfo")).server as server:
        client = Client(Authority(f"{server.url}/directory", trust), folder, Deadline(60))
        assert client.renewal_time(pem)[0] is None
    with Odd(leaf).server as server:
        client = Client(Authority(f"{server.url}/directory", trust), folder, Deadline(60))
        with pytest.raises(AcmeError):
            client.renewal_time(pem)


def test_time_to_wait_as_a_date() -> None:
    """One in the future is some seconds away."""
    assert _seconds("Fri, 01 Jan 2100 00:00:00 GMT") > 1e6
