"""Renewal of certificates by ACME: which is due, one attempt at it, and what becomes of that."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tlsify.acme.failures import AcmeError
from tlsify.acme.sharing import Sharing
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import TlsifyError, errno_name
from tlsify.logs import messages
from tlsify.logs.text import printable
from tlsify.metrics.counters import Event
from tlsify.renewal.attempts import Attempts
from tlsify.renewal.report import LONGEST_PAUSE, Report
from tlsify.renewal.web import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tlsify.acme.board import Board
    from tlsify.acme.settings import Authority, Wanted
    from tlsify.renewal.folder import Folder

_log = logging.getLogger("tlsify")

# Seconds for one certificate, and for all that are due at a time.
_PATIENCE, _TURN = 300.0, 900.0
# A certificate is renewed when a third of its lifetime is left, and up to so much of it earlier,
# each at a moment of its own: neither after a restart nor on two hosts do all come together.
_LEFT, _SPREAD = 1 / 3, 1 / 20
# A certificate that has just come is not ordered again before this part of its lifetime, or on the
# authority's own wish this many seconds: the clock here may be wrong, or the authority.
_SOONEST, _SOONEST_WISH = 1 / 6, 3600.0
# Seconds between two questions when the authority would have a certificate renewed.
_ASK, _LONGEST_ASK = 6 * 3600.0, 24 * 3600.0
_LONGEST_TEXT = 500
_MINUTE = 60
_WRITABLE = "see that this user can write there"
_HINTS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "make its file system writable again",
    errno.ENOLCK: "use a folder on a file system with locks (flock)",
    errno.EOPNOTSUPP: "use a folder on a file system with locks (flock)",
}


@dataclass(slots=True)
class _Schedule:
    """What is stored about the next renewal.

    Attributes:
        directory: URL of the authority that has issued the certificate.
        renew_at: when the authority would have it renewed, or 0.
        ask_at: when to ask it (again).
    """

    directory: str
    renew_at: float = 0.0
    ask_at: float = 0.0


class Renewal:
    """Renewal of the certificates of a server.

    Attributes:
        authority: that issues them.
        wanted: which.
        folder: where they are.
        sharing: what is pending.
    """

    def __init__(
        self, authority: Authority, wanted: Sequence[Wanted], folder: Folder, board: Board
    ) -> None:
        """Store what does not change; ``board`` is for challenges, of other servers, too."""
        self.authority = authority
        self.wanted = wanted
        self.folder = folder
        self.sharing = Sharing(folder, board)

    def work(self, *, insisting: bool = False) -> Report:
        """Do what is due.

        Args:
            insisting: an administrator asks for it: failures are not waited out.

        Raises:
            ConfigError: the folder is not private any more.
        """
        try:
            with self.folder.locked() as is_ours:
                if is_ours:
                    self.sharing.clear()  # of a process that was killed
                    return Report.of(self._turn(insisting=insisting))
            self.sharing.follow()
        except OSError as exc:
            return self._failed(exc)
        return Report(0.0)

    def _failed(self, exc: OSError) -> Report:
        path = self.folder.path / str(exc.filename or "")
        hint = _HINTS.get(exc.errno or 0, _WRITABLE)
        _log.error("ACME: %s: %s; nothing is renewed there; hint: %s", path, _spell(exc), hint)
        return Report(LONGEST_PAUSE, (Event.ACME_NOT_STORED,))

    def _turn(self, *, insisting: bool) -> Iterator[Report]:
        deadline = Deadline(_TURN)
        for wanted in self.wanted:
            try:
                left = deadline.left(_PATIENCE)
            except TimeoutError:
                yield Report(0.0)
                return
            try:
                report = self._renew(wanted, Deadline(left), insisting=insisting)
            except OSError as exc:  # of one file: the others may do
                report = self._failed(exc)
            yield report

    def _renew(self, wanted: Wanted, deadline: Deadline, *, insisting: bool) -> Report:
        found = self.load(wanted)
        left = 0.0 if found is None else self._left(wanted, found, deadline)
        if left > 0:
            return Report(left)
        attempts = self._attempts(wanted)
        if (wait := attempts.turn(insisting=insisting)) > 0:
            _log.log(
                messages.NOTICE,
                "ACME: the next order of a certificate for %s is due in %s, or on SIGHUP: %s",
                *(", ".join(wanted.names), _duration(wait), attempts.why),
            )
            return Report(wait)
        event, least = Event.ACME_NOT_STORED, 0.0
        try:
            attempts.begin(self.folder, wanted.attempts)
            self._obtain(wanted, found, deadline)
        except AcmeError as exc:
            event, why, hint, least = exc.event, str(exc), exc.hint, exc.wait
        except OSError as exc:
            why, hint = f"{self.folder.path}: {_spell(exc)}", _HINTS.get(exc.errno or 0, _WRITABLE)
        except TlsifyError as exc:
            event, why, hint = Event.ACME_MALFORMED, str(exc), exc.hint
        else:
            _log.log(messages.NOTICE, "ACME: a new certificate for %s", ", ".join(wanted.names))
            with contextlib.suppress(OSError):
                self.folder.remove(wanted.attempts)
            return Report(events=(Event.ACME_OBTAINED,))
        why = printable(" ".join(why.split()))[:_LONGEST_TEXT]
        with contextlib.suppress(OSError):
            attempts.fail(self.folder, wanted.attempts, why, least)
        pause = max(attempts.left(), 1.0)
        _log.error(
            "ACME: no certificate for %s: %s; trying again in %s; hint: %s",
            ", ".join(wanted.names), why, _duration(pause), hint,
        )  # fmt: skip
        return Report(pause, (event,))

    def _obtain(self, wanted: Wanted, found: KeyPair | None, deadline: Deadline) -> None:
        """Put a new certificate in its place, where another one may have been found.

        Raises:
            AcmeError: there is none.
            TlsifyError: it is not what was ordered.
            OSError: there is no room for it.
        """
        from tlsify.acme.client import Client  # noqa: PLC0415 - the package that does it is large

        names = ", ".join(wanted.names)
        _log.info("ACME: ordering a certificate for %s from %s", names, self.authority.directory)
        is_theirs = self._schedule(wanted).directory == self.authority.directory
        former = found.chain[0] if found is not None and is_theirs else None
        with self.folder.reserved():
            client = Client(self.authority, self.folder, deadline)
            pem = client.obtain(wanted.names, self.sharing, former)
        pair = KeyPair.from_pem(pem, pem)
        if not _has_names(pair, wanted) or pair.not_after.timestamp() <= time.time():
            raise AcmeError(
                Event.ACME_MALFORMED, "the authority has issued it for other names, or expired"
            )
        self.folder.write(wanted.file, pem)
        try:
            self._plan(wanted, _Schedule(self.authority.directory))
        except OSError:  # none is as good, unless it is of the authority before
            self.folder.remove(wanted.schedule)

    def load(self, wanted: Wanted) -> KeyPair | None:
        """Return the certificate that is there; None if there is none that can be used.

        Raises:
            OSError: it cannot be read.
        """
        pem = self.folder.read(wanted.file)
        try:
            return None if pem is None else KeyPair.from_pem(pem, pem)
        except TlsifyError as exc:
            _log.warning("ACME: %s is replaced: %s", self.folder.path / wanted.file, exc)
            return None

    def survey(self) -> Iterator[tuple[str, str, str]]:
        """Find, for each certificate, its names, what there is of it, and what is wrong with it."""
        for wanted in self.wanted:
            pair = self.load(wanted)
            attempts = self._attempts(wanted)
            state = "none yet" if pair is None else f"until {pair.not_after:%Y-%m-%d}"
            why = attempts.why and f"{state}; {attempts.why}"
            yield ", ".join(wanted.names), f"{state}, by {self.authority.directory}", why

    # -- when

    def _attempts(self, wanted: Wanted) -> Attempts:
        """Return what has become of the last attempts; a corrected order does not wait for them."""
        directory, binding = self.authority.directory, self.authority.binding or ("",)
        spelled = "\n".join((directory, self.authority.challenge, binding[0], *wanted.names))
        what = hashlib.sha256(spelled.encode()).hexdigest()[:16]
        return Attempts.read(self.folder, wanted.attempts, what)

    def _left(self, wanted: Wanted, pair: KeyPair, deadline: Deadline) -> float:
        """Return the seconds until a certificate is to be renewed, or the authority asked."""
        now, leaf = time.time(), pair.chain[0]
        schedule = self._schedule(wanted)
        if not _has_names(pair, wanted) or schedule.directory != self.authority.directory:
            return 0.0
        began, end = leaf.not_valid_before_utc.timestamp(), pair.not_after.timestamp()
        life = end - began
        came = self.folder.written(wanted.file).timestamp()
        if came > now:  # by another clock, which says nothing
            came = began
        due = max(end - life * (_LEFT + _SPREAD * _share(pair)), came + life * _SOONEST)
        if due > now >= schedule.ask_at or schedule.ask_at - now > _LONGEST_ASK:
            schedule = self._ask(wanted, pair, schedule, deadline)
        if schedule.renew_at:
            soonest = came + min(life * _SOONEST, _SOONEST_WISH)
            due = min(due, max(schedule.renew_at, soonest))
        return max(min(due, schedule.ask_at) - now, 1.0) if due > now else 0.0

    def _ask(
        self, wanted: Wanted, pair: KeyPair, schedule: _Schedule, deadline: Deadline
    ) -> _Schedule:
        """Ask the authority when it would have a certificate renewed."""
        from tlsify.acme.client import Client  # noqa: PLC0415 - as above

        now = time.time()
        renew_at, ask_at = schedule.renew_at, now + _ASK
        try:
            client = Client(self.authority, self.folder, deadline)
            when, ask_at = client.renewal_time(pair.certificate_pem())
            renew_at = when or 0.0
        except AcmeError as exc:
            _log.info("ACME: no renewal time of %s: %s", wanted.names[0], printable(str(exc)))
        ask_at = min(max(ask_at, now + 60), now + _LONGEST_ASK)
        found = _Schedule(schedule.directory, renew_at, ask_at)
        with contextlib.suppress(OSError):
            self._plan(wanted, found)
        return found

    def _plan(self, wanted: Wanted, schedule: _Schedule) -> None:
        self.folder.write(wanted.schedule, json.dumps(asdict(schedule)).encode())

    def _schedule(self, wanted: Wanted) -> _Schedule:
        try:
            found = json.loads(self.folder.read(wanted.schedule) or b"")
            numbers = float(found["renew_at"]), float(found["ask_at"])
            return _Schedule(str(found["directory"]), *numbers)
        except (ValueError, TypeError, KeyError, RecursionError):
            return _Schedule(self.authority.directory)


def _has_names(pair: KeyPair, wanted: Wanted) -> bool:
    return set(wanted.names) <= set(pair.names)


def _share(pair: KeyPair) -> float:
    """Return a number from 0 to 1 that is a certificate's own."""
    digest = hashlib.sha256(pair.certificate_pem()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _spell(exc: OSError) -> str:
    return f"{errno_name(exc.errno or 0)}: {exc.strerror}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / _MINUTE)
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
