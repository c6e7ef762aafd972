"""The access log: a line for each connection, request and refused handshake."""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tlsify.connection.plain import Plain
from tlsify.connection.traffic import Traffic
from tlsify.errors import (
    BackendError,
    DeadlineExceeded,
    HandshakeError,
    KtlsError,
    PeerAlert,
    ResourceError,
    Truncated,
    errno_name,
    said,
)
from tlsify.logs.file import LONGEST, LogFile
from tlsify.logs.messages import JSON, peer
from tlsify.logs.text import moment, printable, split_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tlsify.connection.handoff import Handoff

CLEAN, PASSED, PLAIN = "clean", "passed", "plain"
# A value that needs no quotes: printable ASCII without blanks, quotes, "=" and "\".
_BARE = re.compile(r"[!#-<>-\[\]-~]+")
# How many characters of a text are shown where a line would be too long: as many as fit.
_SHORTER = (1024, 256, 64, 24)
_ENDS: tuple[tuple[type[BaseException], str], ...] = (
    (Truncated, "cut"),
    (PeerAlert, "peer_alert"),
    (HandshakeError, "peer_misbehaved"),
    (BackendError, "backend"),
    (DeadlineExceeded, "deadline"),
    (KtlsError, "ktls"),
    (ResourceError, "resources"),
)


class Subject:
    """A connection, as its lines describe it; made once, when it is established.

    Attributes:
        told: fields and their values.
    """

    def __init__(self, connection: Handoff | Plain) -> None:
        """Describe the connection that the calling code serves (`messages.peer`)."""
        host, port = split_address(peer.get(None))
        self.told: dict[str, Any] = {"client": host, "port": port}
        if isinstance(connection, Plain):
            self.told["carrier"] = PLAIN
            return
        agreed = connection.negotiated
        self.told |= {"server_name": agreed.server_name, **_tls(connection)}
        self.told["certificate"] = agreed.peer_subject

    @cached_property
    def text(self) -> str:
        """The fields as text."""
        return _text(self.told)


def outward(backend: Handoff) -> dict[str, object]:
    """Return fields about TLS with a backend, for a connection's line."""
    return {f"backend_{name}": value for name, value in _tls(backend).items()}


def _tls(handed: Handoff) -> dict[str, object]:
    agreed = handed.negotiated
    return {
        "version": agreed.version.label,
        "suite": agreed.suite.name,
        "alpn": None if agreed.alpn is None else agreed.alpn.decode("utf-8", "replace"),
        "carrier": handed.offload.value,
        "reason": None if handed.reason is None else handed.reason.code,
    }


@dataclass(slots=True)
class Visit:
    """What is found out about a connection while it lasts.

    Attributes:
        traffic: what it carries; None if this process does not see it.
        end: how it has ended, if no error says so.
        more: further fields of its line.
    """

    traffic: Traffic | None = field(default_factory=Traffic)
    end: str = CLEAN
    more: dict[str, object] = field(default_factory=dict)


class AccessLog:
    """Writes lines about connections and requests, as text or JSON.

    Nothing that a peer has sent makes more than one line of it, or anything but characters to see.
    """

    def __init__(self, file: LogFile, form: str) -> None:
        """Store where lines go.

        Args:
            file: opened.
            form: one of `messages.FORMATS`.
        """
        self._file = file
        self._is_json = form == JSON

    def reopen(self) -> None:
        """Open the file anew, as `LogFile.reopen`."""
        self._file.reopen()

    def refused(self, name: object, end: str, error: object, seconds: float) -> None:
        """Write that a connection did not get through its handshake.

        Args:
            name: the peer, as ``accept`` gives it.
            end: short name of the cause (`counters.HANDSHAKE_OUTCOMES`).
            error: the same in words.
            seconds: since it was accepted.
        """
        host, port = split_address(name)
        told = {
            "client": host,
            "port": port,
            "server_name": getattr(error, "server_name", None),
            "seconds": seconds,
            "end": end,
            "error": said(error),
        }
        self._write("refused", None, told)

    def connection(
        self, subject: Subject, visit: Visit, error: BaseException | None, seconds: float
    ) -> None:
        """Write how a connection has ended.

        Args:
            subject: which.
            visit: what is known of it besides.
            error: what has ended it; None if ``visit`` says how.
            seconds: since it was established.
        """
        traffic = visit.traffic
        told = {
            **visit.more,
            "received": None if traffic is None else traffic.received,
            "sent": None if traffic is None else traffic.sent,
            "seconds": seconds,
            "end": visit.end if error is None else ending(error),
            "error": None if error is None else said(error) or None,
        }
        self._write("connection", subject, told)

    def plain(self, name: object, told: Mapping[str, object]) -> None:
        """Write about a request without TLS.

        Args:
            name: the client, as ``accept`` gives it.
            told: fields about the request and its answer.
        """
        host, port = split_address(name)
        self._write("plain", None, {"client": host, "port": port, **told})

    def request(self, subject: Subject, told: Mapping[str, object]) -> None:
        """Write about a request.

        Args:
            subject: the connection that it came on.
            told: fields about the request and its answer.
        """
        self._write("request", subject, told)

    def _write(self, event: str, subject: Subject | None, told: Mapping[str, object]) -> None:
        told = _shortened(told, _SHORTER[0])  # what a peer makes long must not cost much
        line = self._spell(event, subject, told)
        for longest in _SHORTER:
            if len(line) <= LONGEST:
                break
            line = self._spell(event, subject, told, longest)
        self._file.append(line)

    def _spell(
        self,
        event: str,
        subject: Subject | None,
        told: Mapping[str, object],
        longest: int | None = None,
    ) -> bytes:
        about = {} if subject is None else subject.told
        if longest is not None:
            about, told = _shortened(about, longest), _shortened(told, longest)
        if self._is_json:
            found = {"time": moment(), "event": event, **about, **told}
            present = {name: _rounded(value) for name, value in found.items() if value is not None}
            return json.dumps(present).encode() + b"\n"
        words = [moment(), event]
        if about:
            words.append(_text(about) if subject is None or longest else subject.text)
        words.append(_text(told))
        return " ".join(words).encode() + b"\n"


@contextmanager
def visiting(log: AccessLog | None, connection: Handoff | Plain) -> Iterator[Visit]:
    """Write a line about a connection when the block ends, if there is a log."""
    visit = Visit()
    if log is None:
        yield visit
        return
    subject, began = Subject(connection), time.monotonic()
    failure: BaseException | None = None
    try:
        yield visit
    except BaseException as exc:
        failure = exc
        raise
    finally:
        log.connection(subject, visit, failure, time.monotonic() - began)


def ending(error: BaseException) -> str:
    """Name what has ended a connection: cut, an errno, or another cause."""
    if not isinstance(error, Exception):  # cancelled: the server ends
        return "stopped"
    for kind, name in _ENDS:
        if isinstance(error, kind):
            return name
    if isinstance(error, OSError) and error.errno:
        return errno_name(error.errno)
    return "failed"


def _text(told: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in told.items())


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if _BARE.fullmatch(text) and text != "-":
        return text
    quoted = printable(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{quoted}"'


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def _shortened(told: Mapping[str, object], longest: int) -> dict[str, Any]:
    return {
        name: f"{value[:longest]}..." if isinstance(value, str) and len(value) > longest else value
        for name, value in told.items()
    }
