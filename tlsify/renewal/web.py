"""HTTP requests to authorities: one answer each, within bounds of time and size."""

from __future__ import annotations

import http.client
import io
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy
from tlsify.connection import establish
from tlsify.connection.setup import dialing
from tlsify.connection.stream import TLSSocket
from tlsify.credentials.anchors import TrustAnchors
from tlsify.errors import NetworkError, TlsifyError, Truncated
from tlsify.names import ReferenceIdentifier
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

# Bytes of an answer, head included: a chain of certificates, or an OCSP response with some.
MAX_ANSWER = 2**17
# Seconds for a request and its answer.
PATIENCE = 30.0
_PORTS = {"http": 80, "https": 443}
_PIECE = 2**14
# One connection for few requests; the kernel's part would be that of a relay's start.
_POLICY = KtlsPolicy(KtlsMode.OFF)


class WebError(NetworkError):
    """An authority cannot be reached, or what it answers is no HTTP."""

    general_hint = "check the URL, and whether this host may reach it"


class Answer(NamedTuple):
    """An answer.

    Attributes:
        status: three digits.
        fields: its header fields.
        content: its content.
    """

    status: int
    fields: http.client.HTTPMessage
    content: bytes


class Place(NamedTuple):
    """Place of a resource, as its URL names it.

    Attributes:
        scheme: http or https.
        host: name or address.
        port: number.
        target: for the request line.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Place:
        """Parse a URL.

        Raises:
            WebError: it is none of the web's, or has more than a place.
        """
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            scheme, host, port = "", None, None
        is_plain = url.isascii() and url.isprintable() and " " not in url
        if scheme not in _PORTS or not host or not is_plain or "@" in parts.netloc:
            raise WebError(f"not a URL of the web: {url[:200]!r}", hint="write https://HOST/PATH")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(scheme, host, _PORTS[scheme] if port is None else port, target)

    @property
    def authority(self) -> str:
        """Spell host and port as the Host field has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Deadline:
    """An end, on the clock that nobody sets, which all requests of one task have in common."""

    def __init__(self, seconds: float) -> None:
        """Set it."""
        self._end = time.monotonic() + seconds

    def left(self, most: float = PATIENCE) -> float:
        """Return the seconds that are left, or ``most`` of them.

        Raises:
            TimeoutError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("there is no time left")
        return min(left, most)


class Request(NamedTuple):
    """A request.

    Attributes:
        url: of http or https.
        method: of HTTP.
        content: to be sent.
        fields: besides the usual ones.
    """

    url: str
    method: str = "GET"
    content: bytes = b""
    fields: Mapping[str, str] = MappingProxyType({})


def fetch(request: Request, deadline: Deadline, trust: TrustAnchors | None = None) -> Answer:
    """Send one request, and return its answer, whatever its status is.

    Redirections are not followed, and nothing is kept for the next request: neither a connection
    nor a cookie.

    Args:
        request: what to send.
        deadline: for this one and its like; `PATIENCE` is for each.
        trust: where a server's path must end; the system's anchors if None.

    Raises:
        WebError: there is no answer in time, or it is too long or no HTTP.
    """
    place = Place.parse(request.url)
    what = f"{place.scheme}://{place.authority}"
    try:
        own = Deadline(deadline.left())
        sock = dialing.connect(place.host, place.port, own.left())
        with dialing.closed_on_error(sock):
            sock = _protected(sock, place, own, trust)
        with sock:
            sock.settimeout(own.left())
            sock.sendall(_spell(request, place))
            received, is_cut = _receive(sock, own)
        return _parse(received, request.method, is_cut=is_cut)
    except TimeoutError as exc:
        raise WebError(f"{what}: it does not answer in time") from exc
    except TlsifyError as exc:
        raise WebError(f"{what}: {exc}", hint=exc.hint) from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise WebError(f"{what}: its answer is no HTTP, or cut short") from exc
    except OSError as exc:
        raise WebError(f"{what}: {explain(exc)}") from exc


def _protected(
    sock: socket.socket, place: Place, deadline: Deadline, trust: TrustAnchors | None
) -> socket.socket:
    if place.scheme == "http":
        return sock
    config = ClientConfig(
        server_name=place.host,
        identities=(ReferenceIdentifier.for_host(place.host),),
        trust=trust or TrustAnchors(),
        timeout=deadline.left(),
    )
    return TLSSocket(establish.connect(sock, config, _POLICY))


def _spell(request: Request, place: Place) -> bytes:
    lines = {
        "Host": place.authority,
        "User-Agent": "tlsify",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
        **request.fields,
    }
    if request.content or request.method == "POST":
        lines["Content-Length"] = str(len(request.content))
    head = [f"{request.method} {place.target} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in lines.items()]
    return "\r\n".join([*head, "", ""]).encode("ascii") + request.content


def _receive(sock: socket.socket, deadline: Deadline) -> tuple[bytes, bool]:
    """Receive all that comes until the end; return whether the end was a cut, too.

    Raises:
        TimeoutError: it takes too long.
        WebError: it is too long.
    """
    received = bytearray()
    while len(received) <= MAX_ANSWER:
        sock.settimeout(deadline.left())
        try:
            piece = sock.recv(_PIECE)
        except (ConnectionResetError, Truncated):
            return bytes(received), True
        if not piece:
            return bytes(received), False
        received += piece
    raise WebError(f"its answer is longer than {MAX_ANSWER} bytes")


class _Received:
    """What has been received, in the place of a socket."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)


def _parse(received: bytes, method: str, *, is_cut: bool) -> Answer:
    """Parse an answer.

    Raises:
        HTTPException: it is none, or not whole.
        ValueError: likewise.
    """
    response = http.client.HTTPResponse(_Received(received), method=method)  # type: ignore[arg-type]
    response.begin()
    if is_cut and response.length is None and not response.chunked:
        raise ValueError("nothing shows where it ends")
    try:
        return Answer(response.status, response.msg, response.read())
    except OverflowError as exc:
        raise ValueError("a length beyond all memory") from exc
