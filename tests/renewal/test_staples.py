"""Tests of staples."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponderEncoding, OCSPResponseBuilder
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certificates import DAY, certify, now, refusal_to_answer, respond
from tests.ports import free_port
from tests.provision import find
from tests.renewal.answering import Answering, reply
from tlsify.credentials import ocsp
from tlsify.credentials.parse import parse_certificates
from tlsify.metrics.counters import Event
from tlsify.renewal import attempts, staples
from tlsify.renewal.folder import Folder
from tlsify.renewal.report import LONGEST_PAUSE, Report
from tlsify.renewal.staples import Staples, file_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tlsify.credentials.key_pair import KeyPair

AUTHORITY = trustme.CA()
(ISSUER,) = parse_certificates(AUTHORITY.cert_pem.bytes(), "the authority")
GOOD, FAILED = (Event.OCSP_FETCHED,), (Event.OCSP_FAILED,)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    return Folder(tmp_path / "folder", "the folder").check()


def work(folder: Folder, *pairs: KeyPair, insisting: bool = False) -> Report:
    """Do what is due for some certificates, as after a restart."""
    found = Staples(folder)
    found.look([(*pair.chain[:1], ISSUER) for pair in pairs])
    return found.work(insisting=insisting)


def kept(folder: Folder, pair: KeyPair) -> bytes | None:
    """Return the response that is there."""
    return folder.read(file_of(pair.chain[0]))


class Responder:
    """A responder, and a certificate that names it.

    Attributes:
        answer: what it says.
    """

    def __init__(self, make: Callable[[KeyPair], bytes], **fields: Any) -> None:
        """Have it answer with what is made for the certificate."""
        self._server = Answering(lambda _: self.answer)
        self.pair = certify(AUTHORITY, "a.example", responder=f"{self._server.url}/x", **fields)
        self.answer = reply(make(self.pair))

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.__exit__()

    @property
    def asked(self) -> int:
        """How often it was asked."""
        return len(self._server.requests)


@contextmanager
def openssl(folder: Path, port: int, pair: KeyPair, state: str) -> Iterator[None]:
    """OpenSSL's own responder, which knows one certificate."""
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    AUTHORITY.private_key_pem.write_to_path(folder / "ca.key")
    serial = f"{pair.chain[0].serial_number:X}"
    serial = serial.rjust(len(serial) + len(serial) % 2, "0")
    revoked = "260101000000Z" if state == "R" else ""
    row = f"{state}\t350101000000Z\t{revoked}\t{serial}\tunknown\t/CN=a\n"
    (folder / "index.txt").write_text(row)
    words = [find("openssl"), "ocsp", "-port", str(port), "-index", str(folder / "index.txt")]
    words += ["-CA", str(folder / "ca.pem"), "-rsigner", str(folder / "ca.pem")]
    words += ["-rkey", str(folder / "ca.key"), "-ndays", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"ACCEPT" not in (line := process.stdout.readline()):
            assert line or process.poll() is None, process.stderr
        try:
            yield
        finally:
            process.kill()


@pytest.mark.interop
def test_responder_of_openssl(tmp_path: Path, folder: Folder) -> None:
    """Its response is stapled; one that says "revoked" is stored, and not stapled."""
    port = free_port()
    pair = certify(AUTHORITY, "a.example", responder=f"http://127.0.0.1:{port}")
    with openssl(tmp_path, port, pair, "V"):
        report = work(folder, pair)
    assert report.events == GOOD
    assert 0.9 * 86400 < report.pause <= 86400
    der = kept(folder, pair)
    assert der is not None
    assert ocsp.objection(der, pair.chain[0], now()) is None
    folder.remove(file_of(pair.chain[0]))
    with openssl(tmp_path, port, pair, "R"):
        assert work(folder, pair).events == FAILED
    assert "revoked" in str(ocsp.objection(kept(folder, pair) or b"", pair.chain[0], now()))


def test_when(folder: Folder) -> None:
    """It is asked when there is nothing of use, or half of the time is over, and not before."""
    with Responder(lambda pair: respond(AUTHORITY, pair, begin=-DAY, end=9 * DAY)) as it:
        name = file_of(it.pair.chain[0])
        for begin, came, end, asks in (
            (-DAY, -DAY, 9 * DAY, False),
            (-4 * DAY, -4 * DAY, 5 * DAY, False),
            (-5 * DAY, -5 * DAY, 4 * DAY, True),
            (-5 * DAY, -DAY / 24, 4 * DAY, False),  # it was old when it came
            (-5 * DAY, -DAY / 48, DAY / 1000, False),  # a responder that repeats itself
            (-9 * DAY, -9 * DAY, -DAY, True),
            (-DAY, -DAY / 24, None, False),
            (-2 * DAY, -DAY, None, True),
            (DAY, DAY, 2 * DAY, True),  # or the clock was set back
            (-DAY, DAY, 9 * DAY, False),
        ):
            folder.write(name, respond(AUTHORITY, it.pair, begin=begin, end=end))
            os.utime(folder.path / name, (then := (now() + came).timestamp(), then))
            before = it.asked
            assert work(folder, it.pair).events == (GOOD if asks else ()), (begin, end)
            assert it.asked - before == asks
        folder.write(name, b"garbage")
        assert work(folder, it.pair).events == GOOD


def test_together(folder: Folder) -> None:
    """What comes soon is fetched along: one reload will do for both."""
    with (
        Responder(lambda pair: respond(AUTHORITY, pair)) as due,
        Responder(lambda pair: respond(AUTHORITY, pair)) as soon,
    ):
        name = file_of(soon.pair.chain[0])
        folder.write(name, respond(AUTHORITY, soon.pair, begin=-4.8 * DAY, end=5.2 * DAY))
        os.utime(folder.path / name, (then := (now() - 4.8 * DAY).timestamp(), then))
        assert work(folder, soon.pair).events == ()
        assert work(folder, due.pair, soon.pair).events == GOOD * 2


def forged(pair: KeyPair) -> bytes:
    """Make a response of another authority, in the name of ours."""
    return respond(trustme.CA(), pair)


def delegated(pair: KeyPair, *, may: bool = True, by: trustme.CA = AUTHORITY) -> bytes:
    """Make a response that a delegate of the issuer has signed."""
    leaf = by.issue_cert("responder.example")
    (given,) = parse_certificates(leaf.cert_chain_pems[0].bytes(), "the delegate")
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    signer: Any = load_pem_private_key(by.private_key_pem.bytes(), None)
    usage = ExtendedKeyUsageOID.OCSP_SIGNING if may else ExtendedKeyUsageOID.SERVER_AUTH
    (issuer,) = parse_certificates(by.cert_pem.bytes(), "the authority")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(given.subject)
        .issuer_name(issuer.subject)
        .public_key(given.public_key())
        .serial_number(1)
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    response = OCSPResponseBuilder().add_response(
        pair.chain[0],
        ISSUER,
        hashes.SHA1(),
        OCSPCertStatus.GOOD,
        now() - DAY,
        now() + DAY,
        None,
        None,
    )
    response = response.responder_id(OCSPResponderEncoding.HASH, certificate)
    made = response.certificates([certificate]).sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return made.public_bytes(Encoding.DER)


def test_delegate(folder: Folder) -> None:
    """The issuer may have another sign, by a certificate with that purpose."""
    with Responder(delegated) as it:
        assert work(folder, it.pair).events == GOOD


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (forged, "no OCSP response of the issuer"),
        (lambda pair: delegated(pair, may=False), "no OCSP response of the issuer"),
        (lambda pair: delegated(pair, by=trustme.CA()), "no OCSP response of the issuer"),
        (lambda _: respond(AUTHORITY, certify(AUTHORITY, "x")), "about another certificate"),
        (lambda _: refusal_to_answer(), "try_later"),
        (lambda _: b"garbage", "no OCSP response of the issuer"),
        (lambda _: b"", "no OCSP response of the issuer"),
        (lambda _: bytes(2**18), "longer than 131072 bytes"),
        (lambda pair: respond(AUTHORITY, pair, begin=-3 * DAY, end=-2 * DAY), "older than"),
        (lambda pair: respond(AUTHORITY, pair, begin=-8 * DAY), "older than"),
    ],
)
def test_response_of_no_use(
    folder: Folder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[KeyPair], bytes],
    why: str,
) -> None:
    """The one that is there stays, and the next attempt waits, after a restart too."""
    with Responder(make) as it:
        name = file_of(it.pair.chain[0])
        good = respond(AUTHORITY, it.pair, begin=-DAY, end=dt.timedelta(hours=1))
        folder.write(name, good)
        os.utime(folder.path / name, (then := (now() - DAY).timestamp(), then))
        report = work(folder, it.pair)
        assert report.events == FAILED
        assert 50 < report.pause < 70
        assert folder.read(name) == good
        assert why in caplog.text
        assert 0 < work(folder, it.pair).pause < 70
        assert it.asked == 1
        monkeypatch.setattr(attempts, "SHORTEST", 0.0)
        assert work(folder, it.pair, insisting=True).events == FAILED
        assert it.asked == 2


def test_answer_of_no_use(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    """Another status, another place: neither is followed."""
    with Responder(lambda _: b"") as it:
        for answer in (
            reply(b"", status="500 No"),
            reply(b"", "Location: http://localhost:1/", status="302 Found"),
        ):
            it.answer = answer
            folder.remove(f".{file_of(it.pair.chain[0])}.json")
            assert work(folder, it.pair).events == FAILED
        assert it.asked == 2
    assert "status 500" in caplog.text
    assert "status 302" in caplog.text


def test_revoked(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    """That is told; what was good before is not stapled any more."""
    with Responder(lambda pair: respond(AUTHORITY, pair, status=OCSPCertStatus.REVOKED)) as it:
        name = file_of(it.pair.chain[0])
        folder.write(name, respond(AUTHORITY, it.pair, begin=-2 * DAY, end=DAY))
        os.utime(folder.path / name, (then := (now() - 2 * DAY).timestamp(), then))
        assert work(folder, it.pair).events == FAILED
        assert "revoked" in str(
            ocsp.objection(kept(folder, it.pair) or b"", it.pair.chain[0], now())
        )
    assert [each.levelno for each in caplog.records] == [logging.WARNING]


def test_certificates_without_a_responder(tmp_path: Path) -> None:
    """Nothing is done for them, nor for one whose issuer is not known: there is no folder even."""
    folder = Folder(tmp_path / "none", "the folder")
    found = Staples(folder)
    named = certify(AUTHORITY, "a.example", responder="http://localhost:1")
    assert found.look([certify(AUTHORITY, "a.example").chain, named.chain[:1]]) == set()
    assert found.work() == Report(LONGEST_PAUSE)
    assert not folder.path.exists()


def test_responders_of_no_use(folder: Folder) -> None:
    """What a certificate names need not be a place of the web."""
    pair = certify(AUTHORITY, "a.example", responder="ldap://localhost/x")
    found = Staples(folder)
    assert found.look([(*pair.chain[:1], ISSUER)]) == set()
    assert found.work().events == FAILED


def test_two_at_once(folder: Folder) -> None:
    """Of two servers with one folder one asks."""
    with Responder(lambda pair: respond(AUTHORITY, pair)) as it:
        with folder.locked():
            assert work(folder, it.pair) == Report(staples._LOCKED)
        assert it.asked == 0
        assert work(folder, it.pair).events == GOOD
        assert work(folder, it.pair).events == ()


def test_what_is_left_of_others(folder: Folder) -> None:
    """Responses of certificates that are gone are removed once they are of no use to anyone."""
    with Responder(lambda pair: respond(AUTHORITY, pair)) as it:
        for name, begin, end in (("old", -9 * DAY, -2 * DAY), ("other", -DAY, DAY)):
            folder.write(f"{name}.ocsp", respond(AUTHORITY, it.pair, begin=begin, end=end))
            folder.write(f".{name}.ocsp.json", json.dumps({}).encode())
        folder.write("odd.ocsp", b"garbage")
        work(folder, it.pair)
        left = {path.name for path in folder.path.iterdir()} - {file_of(it.pair.chain[0]), ".lock"}
    assert left == {"other.ocsp", ".other.ocsp.json"}
