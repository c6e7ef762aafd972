"""OCSP responses from the responders that certificates name: fetched, kept, and refreshed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import AuthorityInformationAccess, ExtendedKeyUsage, ExtensionNotFound
from cryptography.x509.ocsp import OCSPRequestBuilder, load_der_ocsp_response
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tlsify.credentials import ocsp
from tlsify.credentials.parse import encoded
from tlsify.errors import NetworkError, TlsifyError, errno_name
from tlsify.logs.text import printable
from tlsify.metrics.counters import Event
from tlsify.renewal import web
from tlsify.renewal.attempts import Attempts
from tlsify.renewal.report import LONGEST_PAUSE, Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cryptography.x509 import Certificate
    from cryptography.x509.ocsp import OCSPResponse, OCSPSingleResponse

    from tlsify.renewal.folder import Folder

_log = logging.getLogger("tlsify")

# Seconds for all that are due at a time.
_TURN = 600.0
_LOCKED = 30.0
# Responders of a certificate that are tried.
_MOST_RESPONDERS = 2
# A response is refreshed when half of the time is over that it had left when it came, and no sooner
# than in an hour: a responder may repeat an old one. Those that are due soon after come along.
_PART, _SOONEST, _TOGETHER = 0.5, timedelta(hours=1), 0.1
# Where it does not say when the next one comes.
_UNLIMITED = timedelta(days=1)
_OK = 200


# What `cryptography` raises of bytes that are no response of an issuer, or of one that we know.
_UNREADABLE = (
    *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion),
    *(ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


class OcspError(NetworkError):
    """A responder has no response that could be stapled."""

    general_hint = "see whether the responder works: openssl ocsp -issuer ... -cert ... -url ..."


class Subject(NamedTuple):
    """A certificate that names a responder.

    Attributes:
        leaf: the certificate.
        issuer: its issuer's.
        responders: URLs.
    """

    leaf: Certificate
    issuer: Certificate
    responders: tuple[str, ...]

    @classmethod
    def of(cls, chain: Sequence[Certificate]) -> Subject | None:
        """Return the subject of a chain; None if it names no responder, or has no issuer."""
        found = responders(chain[0])
        return cls(chain[0], chain[1], found) if found and len(chain) > 1 else None

    @property
    def file(self) -> str:
        """Name of the file with its response."""
        return file_of(self.leaf)

    @property
    def attempts(self) -> str:
        """Name of the file about attempts that have failed."""
        return f".{self.file}.json"


def file_of(leaf: Certificate) -> str:
    """Return the name of the file with a certificate's response."""
    return f"{hashlib.sha256(encoded(leaf)).hexdigest()[:32]}.ocsp"


def responders(leaf: Certificate) -> tuple[str, ...]:
    """Return the URLs of a certificate's responders; empty if there are none."""
    try:
        found = leaf.extensions.get_extension_for_class(AuthorityInformationAccess).value
    except _UNREADABLE:
        return ()
    named = (it for it in found if it.access_method == AuthorityInformationAccessOID.OCSP)
    return tuple(str(it.access_location.value) for it in named)[:_MOST_RESPONDERS]


class Staples:
    """Keeps OCSP responses fresh."""

    def __init__(self, folder: Folder) -> None:
        """Store where responses are kept."""
        self._folder = folder
        self._subjects: list[Subject] = []

    def look(self, chains: Iterable[Sequence[Certificate]]) -> set[int]:
        """Take note of the server's certificates; return the ports of their responders."""
        self._subjects = [found for chain in chains if (found := Subject.of(chain)) is not None]
        ports = set()
        for url in (url for subject in self._subjects for url in subject.responders):
            with contextlib.suppress(web.WebError):
                ports.add(web.Place.parse(url).port)
        return ports

    def work(self, *, insisting: bool = False) -> Report:
        """Fetch what is due.

        Args:
            insisting: an administrator asks for it: failures are not waited out.

        Raises:
            ConfigError: the folder is not private any more.
        """
        if not self._subjects:
            return Report()
        try:
            with self._folder.locked() as is_ours:
                if not is_ours:
                    return Report(_LOCKED)
                self._tidy()
                return Report.of(self._turn(insisting=insisting))
        except OSError as exc:
            _log.error("OCSP: %s: %s", self._folder.path, _spell(exc))
            return Report(LONGEST_PAUSE, (Event.OCSP_FAILED,))

    def _turn(self, *, insisting: bool) -> Iterator[Report]:
        deadline = web.Deadline(_TURN)
        left = {subject: self._left(subject) for subject in self._subjects}
        is_turn = any(seconds <= 0 for seconds, _ in left.values())
        for subject, (seconds, soon) in left.items():
            if seconds <= 0 or (is_turn and seconds <= soon):
                yield self._refresh(subject, deadline, insisting=insisting)
            else:
                yield Report(seconds)

    def _left(self, subject: Subject) -> tuple[float, float]:
        """Return the seconds until a response is due, and from when on it may come along."""
        try:
            kept, came = self._kept(subject), self._folder.written(subject.file)
        except OSError:  # what is to replace it says why
            kept = None
        if kept is None:
            return 0.0, 0.0
        now = datetime.now(UTC)
        if came > now:  # by another clock, which says nothing
            came = kept.this_update_utc
        end = kept.next_update_utc or came + _UNLIMITED
        due = came + max((end - came) * _PART, _SOONEST)
        soon = (end - kept.this_update_utc) * _TOGETHER
        return (min(due, end) - now).total_seconds(), soon.total_seconds()

    def _kept(self, subject: Subject) -> OCSPSingleResponse | None:
        """Return the response that is there, if it is of use."""
        der = self._folder.read(subject.file)
        if der is None or ocsp.objection(der, subject.leaf, datetime.now(UTC)) is not None:
            return None
        return ocsp.about(der, subject.leaf)

    def _refresh(self, subject: Subject, deadline: web.Deadline, *, insisting: bool) -> Report:
        attempts = Attempts.read(self._folder, subject.attempts)
        if (wait := attempts.turn(insisting=insisting)) > 0:
            return Report(wait)
        try:
            attempts.begin(self._folder, subject.attempts)
            why = self._replace(subject, _fetch(subject, deadline))
        except (TlsifyError, OSError) as exc:
            why = _spell(exc) if isinstance(exc, OSError) else str(exc)
        if why is None:
            self._folder.remove(subject.attempts)
            return Report(max(self._left(subject)[0], 1.0), (Event.OCSP_FETCHED,))
        why = printable(" ".join(why.split()))
        with contextlib.suppress(OSError):
            attempts.fail(self._folder, subject.attempts, why)
        _log.warning("OCSP: nothing to staple for %s: %s", _name(subject), why)
        return Report(max(attempts.left(), 1.0), (Event.OCSP_FAILED,))

    def _replace(self, subject: Subject, der: bytes) -> str | None:
        """Store a response, unless an older one is sent again; return why it is not to be stapled.

        One that says "revoked" takes the place of one that says "good", too.

        Raises:
            OSError: there is no room for it.
        """
        kept, found = self._kept(subject), ocsp.about(der, subject.leaf)
        if kept is not None and found is not None and found.this_update_utc < kept.this_update_utc:
            return "the response is older than the one that is there"
        self._folder.write(subject.file, der)
        return ocsp.objection(der, subject.leaf, datetime.now(UTC))

    def _tidy(self) -> None:
        """Remove responses of certificates that are no more; another server's are in use still."""
        ours = {subject.file for subject in self._subjects}
        for path in self._folder.path.glob("*.ocsp"):
            if path.name in ours or not path.is_file():
                continue
            if _is_long_past(self._folder.read(path.name)):
                self._folder.remove(path.name)
                self._folder.remove(f".{path.name}.json")


def _fetch(subject: Subject, deadline: web.Deadline) -> bytes:
    """Fetch a response, and check its signature: who is on the way could send any other.

    Raises:
        OcspError: no responder has one that could be stapled, or says that it is revoked.
        WebError: none of them answers.
    """
    asked = OCSPRequestBuilder().add_certificate(subject.leaf, subject.issuer, hashes.SHA1())  # noqa: S303
    content = asked.build().public_bytes(serialization.Encoding.DER)
    fields = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    failure: NetworkError = OcspError("no responder is named")
    for url in subject.responders:
        try:
            answer = web.fetch(web.Request(url, "POST", content, fields), deadline)
            if answer.status != _OK:
                raise OcspError(f"{url}: status {answer.status}")
            _check(answer.content, subject, url)
        except NetworkError as exc:
            failure = exc
        else:
            return answer.content
    raise failure


def _check(der: bytes, subject: Subject, url: str) -> None:
    """Check that a response is a successful one about a certificate, by its issuer.

    Raises:
        OcspError: it is not.
    """
    try:
        response = load_der_ocsp_response(der)
        name = response.response_status.name
        if name != "SUCCESSFUL":
            raise OcspError(f"{url}: the responder says {name.lower()}")
        signer = _signer(response, subject.issuer)
        _verify(response, signer)
    except _UNREADABLE as exc:
        raise OcspError(f"{url}: its answer is no OCSP response of the issuer") from exc
    if ocsp.about(der, subject.leaf) is None:
        raise OcspError(f"{url}: its response is about another certificate")


def _signer(response: OCSPResponse, issuer: Certificate) -> Certificate:
    """Return the certificate that a response is signed with: its issuer's, or a delegate's.

    Raises:
        InvalidSignature: the delegate's is not by the issuer.
        ValueError: likewise.
        ExtensionNotFound: it has no right to sign.

    Source: RFC 6960 4.2.2.2.
    """
    for found in response.certificates:
        if found == issuer:
            continue
        found.verify_directly_issued_by(issuer)
        usage = found.extensions.get_extension_for_class(ExtendedKeyUsage).value
        now = datetime.now(UTC)
        is_in_time = found.not_valid_before_utc <= now <= found.not_valid_after_utc
        if ExtendedKeyUsageOID.OCSP_SIGNING in usage and is_in_time:
            return found
    return issuer


def _verify(response: OCSPResponse, signer: Certificate) -> None:
    """Verify the signature of a response.

    Raises:
        InvalidSignature: it is another's.
        TypeError: it is by a kind of key that no authority has.
    """
    key, digest = signer.public_key(), response.signature_hash_algorithm
    signed, signature = response.tbs_response_bytes, response.signature
    if isinstance(key, rsa.RSAPublicKey) and digest is not None:
        key.verify(signature, signed, padding.PKCS1v15(), digest)
    elif isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
        key.verify(signature, signed, ec.ECDSA(digest))
    else:
        raise TypeError("an unusual key")


def _is_long_past(der: bytes | None) -> bool:
    try:
        found = next(iter(load_der_ocsp_response(der or b"").responses))
        end = found.next_update_utc or found.this_update_utc + _UNLIMITED
    except (*_UNREADABLE, StopIteration):
        return True
    return end + _UNLIMITED < datetime.now(UTC)


def _name(subject: Subject) -> str:
    return printable(subject.leaf.subject.rfc4514_string() or f"{subject.leaf.serial_number:x}")


def _spell(exc: OSError) -> str:
    return f"{errno_name(exc.errno or 0)}: {exc.strerror}"
