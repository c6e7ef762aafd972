"""Requests: what httptools finds in a stream of bytes, within bounds (RFC 9112)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

# The most that a request may have: bytes of its target, and fields and bytes of its header section,
# target and trailers included.
_TARGET = 8 * 1024
_FIELDS = 100
_SECTION = 32 * 1024
# Names and values are surrounded by a colon, a blank and the end of the line.
_PER_FIELD = 4
# Two blanks, the version and the end of the request line; the empty line.
_PER_REQUEST = 14
# Methods whose requests are understood before their content is.
_WITHOUT_CONTENT = frozenset({"GET", "HEAD"})


class BadRequest(Exception):
    """The client's stream cannot be read any further.

    Attributes:
        status: of the answer; the connection ends with it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Version(NamedTuple):
    """HTTP's, as a request claims it."""

    major: int
    minor: int


HTTP10 = Version(1, 0)
HTTP11 = Version(1, 1)


@dataclass(slots=True)
class Request:
    """A request, once its header section is complete.

    Attributes:
        method: in capitals.
        target: as it was sent.
        version: likewise.
        fields: by their names in lower case; the lines of one are joined (RFC 9110 5.2).
        hosts: how many lines Host has.
        persists: whether the client would have the connection go on.
        size: bytes of it that have come, without what only frames its content.
        is_whole: whether all of its content has come, too, which is not kept.
    """

    method: str
    target: str
    version: Version
    fields: dict[str, str]
    hosts: int
    persists: bool
    size: int = 0
    is_whole: bool = False

    @property
    def can_be_answered(self) -> bool:
        """Whether to answer now: content is waited for with GET and HEAD, where it is passed over.

        Other methods are refused, whatever their content is. A client that has asked for leave to
        send content may not send it.
        """
        return self.is_whole or self.method not in _WITHOUT_CONTENT or "expect" in self.fields

    @property
    def path(self) -> str:
        """The target's path, of whatever authority it names (RFC 9112 3.2.2)."""
        return self._parts()[0]

    @property
    def query(self) -> str:
        """The target's query, without the question mark."""
        return self._parts()[1]

    def field(self, name: str) -> str | None:
        """Return a field's value; None if there is no such field."""
        return self.fields.get(name.lower())

    def _parts(self) -> tuple[str, str]:
        rest = self.target.partition("#")[0]
        path, _, query = rest.partition("?")
        if not path.startswith("/") and "://" in path:
            path = "/" + path.partition("://")[2].partition("/")[2]
        return path, query


class Reader:
    """Finds requests, one after the other; the methods ``on_...`` are httptools' callbacks.

    Attributes:
        found: requests, the oldest first, for the caller to remove.
        is_amid: whether a request has begun that is not whole.
    """

    def __init__(self) -> None:
        """Begin with a connection."""
        self.found: deque[Request] = deque()
        self.is_amid = False
        self._parser = HttpRequestParser(self)
        self._in_section = False
        self._fault: BadRequest | None = None
        # Bytes fed since the last callback: the parser may be keeping them.
        self._kept = 0
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._fields: dict[str, str] = {}
        self._hosts = self._count = self._size = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Read on.

        Args:
            data: what has come, in pieces that are small beside the bounds.

        Raises:
            BadRequest: there is no reading on after it; requests found before it are good.
        """
        self._kept += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # the request does not persist, so that nothing is read after it
        except HttpParserError as exc:
            raise (self._fault or BadRequest(400, str(exc))) from exc
        if self._kept > _SECTION:
            raise BadRequest(431, "the header section is too long")

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.is_amid = self._in_section = True
        self._begin()

    def on_url(self, target: bytes) -> None:
        """Collect a piece of the target."""
        self._target += target
        self._size += len(target)
        if len(self._target) > _TARGET:
            self._refuse(414, "the target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a field; fields of trailers are not used, but count."""
        self._count += 1
        self._size += len(name) + len(value) + _PER_FIELD
        if self._count > _FIELDS or self._size > _SECTION:
            self._refuse(431, "the header section is too long")
        if not self._in_section:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key == "host":
            self._hosts += 1
        before = self._fields.get(key)
        self._fields[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        """Keep the request."""
        self._in_section = False
        self._kept = 0
        parser = self._parser
        version = parser.get_http_version()
        self.found.append(
            Request(
                method=parser.get_method().decode("latin-1"),
                target=self._target.decode("utf-8", "surrogateescape"),
                version=_VERSIONS.get(version) or Version(*map(int, version.split("."))),
                fields=self._fields,
                hosts=self._hosts,
                # Another protocol may follow a request for it, though it is not agreed to.
                persists=parser.should_keep_alive() and not parser.should_upgrade(),
                size=self._size + len(parser.get_method()) + _PER_REQUEST,
            )
        )

    def on_body(self, content: bytes) -> None:
        """Pass over content."""
        self._kept = 0
        if self.found:
            self.found[-1].size += len(content)

    def on_message_complete(self) -> None:
        """Note that the request is whole, unless it has been answered without."""
        self._kept = 0
        self.is_amid = False
        if self.found:
            self.found[-1].is_whole = True

    def _refuse(self, status: int, reason: str) -> None:
        self._fault = BadRequest(status, reason)
        raise self._fault


_VERSIONS = {"1.0": HTTP10, "1.1": HTTP11}
