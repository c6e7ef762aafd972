"""Tests of renewal, with pebble as the authority."""

from __future__ import annotations

import datetime as dt
import errno
import json
import logging
import os
import resource
import select
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from acme import client
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.acme.pebble import BINDING, Pebble
from tests.doubles import Endpoint, until
from tlsify.acme import sharing
from tlsify.acme.board import Board, encode
from tlsify.acme.client import Client
from tlsify.acme.renewal import Renewal
from tlsify.acme.settings import Authority, Wanted
from tlsify.config import ServerConfig
from tlsify.connection import establish
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError, HandshakeError
from tlsify.logs.messages import NOTICE
from tlsify.metrics.counters import Event
from tlsify.renewal import attempts
from tlsify.renewal.folder import Folder
from tlsify.renewal.report import Report
from tlsify.renewal.web import Deadline
from tlsify.serving.plain_http import PlainHttp, Redirector
from tlsify.system.process import fork, status_of
from tlsify.tls.challenge import ChallengeAnswered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

_DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def pebble(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority that wants accounts to be bound to others."""
    with Pebble(tmp_path_factory.mktemp("pebble"), authority, bound=True) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_second_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package sleeps a second before it asks again."""

    def nap(_: float) -> None:
        select.select([], [], [], 0.02)

    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=nap))


class Site:
    """A renewal, and the server that the authority looks at."""

    def __init__(self, pebble: Pebble, folder: Path, *names: str, challenge: str = "") -> None:
        """Prepare."""
        self.pebble = pebble
        self.board = Board()
        self.folder = Folder(folder, "the folder").check()
        self.wanted = Wanted(names or ("a.example",))
        self.authority = Authority(
            pebble.directory,
            TrustAnchors.load(pebble.ca),
            challenge=challenge or "tls-alpn-01",
            binding=BINDING,
        )

    @property
    def renewal(self) -> Renewal:
        """A new one, as after a restart."""
        return Renewal(self.authority, [self.wanted], self.folder, self.board)

    def work(self, *, insisting: bool = False) -> Report:
        """Do what is due, while the authority is answered."""
        with self._answered():
            return self.renewal.work(insisting=insisting)

    @property
    def path(self) -> Path:
        """The file with the certificate."""
        return self.folder.path / self.wanted.file

    def pair(self) -> KeyPair:
        """Return the certificate."""
        return KeyPair.load(self.path, self.path)

    def put(self, left: dt.timedelta, came: dt.timedelta = -30 * _DAY) -> None:
        """Put a certificate there, of whose lifetime so much is left, and which came then."""
        self.folder.write(self.wanted.file, certify(self.wanted.names, left))
        moment = (dt.datetime.now(dt.UTC) + came).timestamp()
        os.utime(self.path, (moment, moment))

    @contextmanager
    def _answered(self) -> Iterator[None]:
        config = ServerConfig(
            key_pair=make_key_pair(["localhost"]), acme_challenge=self.board.tls, provisional=True
        )

        def tls(sock: socket.socket) -> None:
            with pytest.raises(HandshakeError) as caught:
                establish.accept(sock, config)
            answers.append(isinstance(caught.value, ChallengeAnswered))

        def http(sock: socket.socket) -> None:
            with sock:
                sock.sendall(
                    Redirector(PlainHttp(challenge=self.board.http), None)(sock.recv(2**12), 0)
                )

        def serve(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
            with suppress(OSError):
                while True:
                    answer(listener.accept()[0])

        answers: list[bool] = []
        ports = {self.pebble.tls_port: tls, self.pebble.http_port: http}
        threads = []
        for port, answer in ports.items():
            listener = socket.create_server(("127.0.0.1", port))
            threads.append((threading.Thread(target=serve, args=(listener, answer)), listener))
            threads[-1][0].start()
        try:
            yield
        finally:
            for thread, listener in threads:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()
                listener.close()


@pytest.fixture
def site(pebble: Pebble, tmp_path: Path) -> Site:
    """A server without a certificate."""
    return Site(pebble, tmp_path / "acme")


def certify(names: tuple[str, ...], left: dt.timedelta, life: dt.timedelta = 90 * _DAY) -> bytes:
    """Make a certificate, in PEM with its key, of whose lifetime so much is left."""
    now = dt.datetime.now(dt.UTC)
    pair = make_key_pair(list(names))
    builder = x509.CertificateBuilder(
        pair.chain[0].issuer,
        pair.chain[0].subject,
        pair.chain[0].public_key(),
        x509.random_serial_number(),
        now + left - life,
        now + left,
        list(pair.chain[0].extensions),
    )
    assert isinstance(pair.key, ec.EllipticCurvePrivateKey)
    made = builder.sign(pair.key, hashes.SHA256())
    key = pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return replace(pair, chain=(made,)).certificate_pem() + key


@pytest.mark.parametrize("challenge", ["tls-alpn-01", "http-01"])
def test_certificate(pebble: Pebble, tmp_path: Path, challenge: str) -> None:
    """It is for all names, private, and not ordered again; no challenge is left pending."""
    site = Site(pebble, tmp_path / "acme", "a.example", "b.example", challenge=challenge)
    assert site.work().events == (Event.ACME_OBTAINED,)
    assert site.pair().names == ("a.example", "b.example")
    assert site.path.stat().st_mode & 0o777 == 0o600
    assert site.board.tls("a.example") is None
    orders = pebble.orders
    report = site.work()
    assert report.events == ()
    assert report.pause > 3600
    assert pebble.orders == orders
    assert {path.name for path in site.folder.path.iterdir() if "account" not in path.name} == {
        *("a.example.pem", ".a.example.renewal.json", ".lock")
    }


@pytest.mark.parametrize(
    ("left", "renewed"),
    [(40 * _DAY, False), (29 * _DAY, True), (-_DAY, True), (200 * _DAY, False)],
)
def test_lifetime(site: Site, left: dt.timedelta, renewed: bool) -> None:
    """The last third decides, by a clock that may have been set; the authority is asked besides.

    One that has just come stays: by a wrong clock it might never be young.
    """
    site.put(left, came=0 * _DAY)
    assert site.work().events == ()
    site.put(left, came=left - 90 * _DAY)
    orders = site.pebble.orders
    assert site.work().events == ((Event.ACME_OBTAINED,) if renewed else ())
    assert site.pebble.orders - orders == renewed
    site.put(left, came=200 * _DAY)  # by a clock that has been set back since
    assert site.work().events == ((Event.ACME_OBTAINED,) if renewed else ())


def test_what_else_makes_for_a_new_one(site: Site) -> None:
    """Other names, another authority, a file of no use: each has a new one with a new key."""
    site.work()
    keys = {site.path.read_bytes()}
    site.wanted = Wanted(("a.example", "c.example"))
    assert site.work().events == (Event.ACME_OBTAINED,)
    assert site.pair().names == ("a.example", "c.example")
    keys.add(site.path.read_bytes())
    other = site.pebble.directory.replace("localhost", "LOCALHOST")
    site.authority = site.authority._replace(directory=other)
    assert site.work().events == (Event.ACME_OBTAINED,)
    keys.add(site.path.read_bytes())
    site.folder.write(site.wanted.file, b"garbage")
    assert site.work().events == (Event.ACME_OBTAINED,)
    keys.add(site.path.read_bytes())
    assert len(keys) == 4
    assert site.work().events == ()


def test_revoked(site: Site) -> None:
    """The authority says by its renewal time that it wants it replaced (RFC 9773)."""
    site.work()
    client = Client(site.authority, site.folder, Deadline(60))
    client._register()
    client._client.revoke(site.pair().chain[0], 1)
    schedule = json.loads(site.folder.read(site.wanted.schedule) or b"")
    site.folder.write(site.wanted.schedule, json.dumps({**schedule, "ask_at": 0}).encode())
    before = site.pair()
    report = site.work()
    assert report.events == ()  # an hour later
    assert 3590 < report.pause <= 3600
    os.utime(site.path, (0, 0))
    replaced = site.pebble.count("is a replacement of")
    assert site.work().events == (Event.ACME_OBTAINED,)
    assert site.pair().chain[0].serial_number != before.chain[0].serial_number
    assert site.pebble.count("is a replacement of") == replaced + 1
    # Only one certificate may take its place: for another one it is not named.
    with site._answered():
        client = Client(site.authority, site.folder, Deadline(60))
        pem = client.obtain(site.wanted.names, site.board, before.chain[0])
    assert KeyPair.from_pem(pem, pem).names == site.wanted.names
    assert site.pebble.count("is a replacement of") == replaced + 1


def test_wrong_challenge(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate that works stays; the next attempt waits, after a restart too."""
    site.put(_DAY)
    before = site.path.read_bytes()
    caplog.set_level(NOTICE)
    show, wrong = site.board.show, encode({"a.example": bytes(32)}, {})
    monkeypatch.setattr(site.board, "show", lambda _: show(wrong))
    report = site.work()
    assert report.events == (Event.ACME_CHALLENGE_FAILED,)
    assert 50 < report.pause < 70
    assert site.path.read_bytes() == before
    (line,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert line.startswith("ACME: no certificate for a.example: a.example: ")
    assert "trying again in 1 min; hint: it has to reach this server" in line
    assert "\n" not in line
    orders = site.pebble.orders
    assert site.work().events == ()
    assert site.pebble.orders == orders
    assert "is due in 1 min, or on SIGHUP: a.example: " in caplog.text
    monkeypatch.setattr(attempts, "SHORTEST", 0.0)
    assert site.work(insisting=True).events == (Event.ACME_CHALLENGE_FAILED,)
    assert site.pebble.orders - orders == 1
    ((names, _, why),) = site.renewal.survey()
    assert (names, "until" in why) == ("a.example", True)
    site.wanted = Wanted(("a.example", "b.example"))
    assert site.work().events == (Event.ACME_CHALLENGE_FAILED,)  # an order of its own: at once


def test_server_out_of_reach(pebble: Pebble, tmp_path: Path) -> None:
    """Nobody answers at the port: that is a failed challenge, too."""
    site = Site(pebble, tmp_path / "acme")
    assert site.renewal.work().events == (Event.ACME_CHALLENGE_FAILED,)
    assert site.board.tls("a.example") is None


def test_binding_that_is_missing_or_wrong(site: Site) -> None:
    """The error says so."""
    for binding, event in ((None, Event.ACME_REFUSED), (("kid-1", "AAAA"), Event.ACME_REFUSED)):
        site.authority = site.authority._replace(binding=binding)
        assert site.work(insisting=True).events == (event,)
        site.folder.remove(site.wanted.attempts)


def test_account_that_is_deactivated(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing helps but a new one, which is said; the old one's key is left."""
    site.work()
    account = Client(site.authority, site.folder, Deadline(60))
    account._register()
    registration = account._network.account
    assert registration is not None
    account._client.deactivate_registration(registration)
    site.put(_DAY)
    assert site.work(insisting=True).events == (Event.ACME_REFUSED,)
    (key,) = site.folder.path.glob(".account-*.pem")
    assert f"hint: move {key} away" in caplog.text
    key.rename(site.folder.path / "old")
    site.folder.remove(site.wanted.attempts)
    assert site.work().events == (Event.ACME_OBTAINED,)


def test_file_that_cannot_be_read(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is named, and the other certificates are renewed."""
    bad = Wanted(("bad.example",))
    (site.folder.path / bad.file).mkdir()
    renewal = Renewal(site.authority, [bad, site.wanted], site.folder, site.board)
    with site._answered():
        report = renewal.work()
    assert report.events == (Event.ACME_NOT_STORED, Event.ACME_OBTAINED)
    assert f"ACME: {site.folder.path / bad.file}: EISDIR" in caplog.text


def test_two_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two servers with one folder one orders; the other answers, and finds what that brings."""
    monkeypatch.setattr(sharing, "_NOTICE", 0.5)
    monkeypatch.setattr(sharing, "_PACE", 0.01)
    first = Renewal(site.authority, [site.wanted], site.folder, Board())
    second = site.renewal  # whose board the authority is answered from
    for each in (first, second):
        each.sharing.join()
    orders = site.pebble.orders
    with site._answered():
        ordering = Endpoint(first.work)
        until(lambda: second.sharing.watch() is not None)
        assert second.work() == Report(0.0)
        assert ordering.result().events == (Event.ACME_OBTAINED,)
        assert site.board.tls("a.example") is None
        assert second.work().events == ()
    assert second.sharing.watch() is None
    assert site.pebble.orders - orders == 1


def test_disk_that_is_full(site: Site) -> None:
    """Nothing is ordered that could not be stored, and the certificate that works stays."""
    site.put(_DAY)
    before, orders = site.path.read_bytes(), site.pebble.orders
    for limit in (0, 4096):  # not even what has been tried; not what is to come
        pid = fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            report = site.renewal.work()
            os._exit(report.events != (Event.ACME_NOT_STORED,) or report.pause < 1)
        assert status_of(pid) == 0
        site.folder.remove(site.wanted.attempts)
    assert (site.path.read_bytes(), site.pebble.orders) == (before, orders)
    assert site.work().events == (Event.ACME_OBTAINED,)


def test_disk_that_is_full_at_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that has come is one, and not ordered again of the same authority."""
    site.work()
    other = site.pebble.directory.replace("localhost", "LOCALHOST")
    site.authority = site.authority._replace(directory=other)
    write = Folder.write

    def fail(folder: Folder, name: str, content: bytes) -> None:
        if name == site.wanted.schedule:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write", fail)
    assert site.work().events == (Event.ACME_OBTAINED,)
    assert site.work().events == ()


def test_folder_that_is_not_private_any_more(site: Site) -> None:
    """It is not used."""
    site.folder.path.chmod(0o755)
    with pytest.raises(ConfigError, match="not private"):
        site.renewal.work()
