"""Metrics of a server in Prometheus's text format, and the small HTTP server for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tlsify import __version__
from tlsify.metrics.counters import (
    BOUNDS,
    HANDSHAKE_OUTCOMES,
    Event,
    Gauge,
    counters,
    gauge,
    handshake_times,
    relayed_by_reason,
)
from tlsify.metrics.prometheus import family, sample, spell

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping

# Limits of a request: seconds for it and its answer; bytes of its head; bytes read after that, so
# that closing does not reset the answer; clients at a time.
_PATIENCE = 5.0
_HEAD_LIMIT = 2**13
_REST_LIMIT = 2**16
_AT_ONCE = 16
_ACCEPT_PAUSE = 1.0  # seconds
_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

# Families of one metric for each of several events: name, meaning, label, value of the label.
_LABELLED: tuple[tuple[str, str, str, dict[str, Event]], ...] = (
    (
        "tlsify_handshakes_total",
        "Handshakes by how they ended.",
        "outcome",
        HANDSHAKE_OUTCOMES,
    ),
    (
        "tlsify_limit_reached_total",
        "Connections that a limit kept waiting (connections, handshakes) or refused.",
        "limit",
        {
            "connections": Event.FULL_OF_CONNECTIONS,
            "handshakes": Event.FULL_OF_HANDSHAKES,
            "per_address": Event.REFUSED_PER_ADDRESS,
        },
    ),
    (
        "tlsify_rekeys_total",
        "Keys changed in the middle of a connection.",
        "direction",
        {"sent": Event.KEY_UPDATE_SENT, "received": Event.KEY_UPDATE_RECEIVED},
    ),
    (
        "tlsify_reloads_total",
        "Reloads by whether the new configuration is used.",
        "outcome",
        {"ok": Event.RELOADED, "refused": Event.RELOAD_REFUSED},
    ),
    (
        "tlsify_acme_failures_total",
        "Attempts to get a certificate by ACME that failed, by the reason.",
        "reason",
        {
            "unreachable": Event.ACME_UNREACHABLE,
            "refused": Event.ACME_REFUSED,
            "rate_limited": Event.ACME_RATE_LIMITED,
            "challenge": Event.ACME_CHALLENGE_FAILED,
            "too_slow": Event.ACME_TOO_SLOW,
            "malformed": Event.ACME_MALFORMED,
            "storage": Event.ACME_NOT_STORED,
        },
    ),
    (
        "tlsify_ocsp_fetches_total",
        "OCSP responses asked for, by whether there was one to staple.",
        "outcome",
        {"ok": Event.OCSP_FETCHED, "failed": Event.OCSP_FAILED},
    ),
)
_SINGLE: tuple[tuple[str, str, Event], ...] = (
    ("connections_accepted", "TCP connections accepted.", Event.ACCEPTED),
    ("accept_errors", "Failures of accept(), for want of descriptors.", Event.ACCEPT_FAILED),
    ("offloaded", "Connections that the kernel carries.", Event.OFFLOADED),
    ("resumed", "Handshakes that resumed a session.", Event.RESUMED),
    ("rekeys_refused", "KeyUpdates this kernel cannot follow.", Event.KEY_UPDATE_REFUSED),
    ("key_limits", "Connections ended by a worn key.", Event.KEY_LIMIT_REACHED),
    ("peer_alerts", "Connections that the peer ended with an alert.", Event.PEER_ALERT),
    ("bad_records", "Connections ended by a bad record.", Event.PEER_MISBEHAVED),
    ("truncations", "Streams that ended without close_notify.", Event.TRUNCATED),
    ("breaks", "Connections that were reset, timed out or became unreachable.", Event.BROKEN),
    ("shortages", "Connections not begun or ended in order, for want.", Event.SHORTAGE),
    ("idle_ends", "Connections ended since nothing moved on them.", Event.IDLE_ENDED),
    ("send_timeouts", "Connections cut since the peer took nothing.", Event.SEND_TIMED_OUT),
    ("drain_cuts", "Connections cut off at the end of a drain.", Event.DRAIN_CUT),
    ("worker_restarts", "Workers replaced because they ended.", Event.WORKER_RESTARTED),
    ("worker_hangs", "Workers killed because they hung, and then replaced.", Event.WORKER_HUNG),
    ("key_holder_restarts", "Key holders replaced since they ended.", Event.KEY_HOLDER_RESTARTED),
    ("backend_errors", "Connections lost to a backend.", Event.BACKEND_FAILED),
    ("descriptors_passed", "Connections passed on as descriptors.", Event.DESCRIPTOR_PASSED),
    ("acme_certificates", "Certificates obtained by ACME.", Event.ACME_OBTAINED),
    ("errand_failures", "Processes for ACME or OCSP that crashed.", Event.ERRAND_FAILED),
    ("log_lines_lost", "Lines of a log that could not be written.", Event.LOG_LINE_LOST),
)
_GAUGES: tuple[tuple[str, str, Gauge], ...] = (
    ("connections", "Connections open now.", Gauge.CONNECTIONS),
    ("handshakes_in_flight", "Handshakes under way.", Gauge.HANDSHAKES),
    ("workers", "Workers that accept connections.", Gauge.WORKERS),
    ("workers_draining", "Workers that finish their connections.", Gauge.WORKERS_DRAINING),
    (
        "acme_last_success_timestamp_seconds",
        "When ACME has last brought a certificate; 0 if it has not.",
        Gauge.ACME_OBTAINED_AT,
    ),
    (
        "ocsp_last_success_timestamp_seconds",
        "When an OCSP response has last been fetched; 0 if none has.",
        Gauge.OCSP_FETCHED_AT,
    ),
)


@dataclass(frozen=True, slots=True)
class About:
    """Facts of a configuration for the metrics.

    Attributes:
        certificates: name and time of expiry, in seconds since 1970.
        limits: by name.
    """

    certificates: tuple[tuple[str, float], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)


_NOTHING = About()


def render(about: About = _NOTHING) -> str:
    """Return all metrics in Prometheus's text format, version 0.0.4."""
    return "".join(_lines(about))


def _lines(about: About) -> Iterator[str]:
    counted = counters()
    yield from family("tlsify_info", "gauge", "The version that runs.")
    yield sample("tlsify_info", 1, spell(version=__version__))
    yield from family("tlsify_ready", "gauge", "0 while draining before the end, otherwise 1.")
    yield sample("tlsify_ready", int(is_ready()))
    for name, meaning, which in _GAUGES:
        yield from family(f"tlsify_{name}", "gauge", meaning)
        yield sample(f"tlsify_{name}", gauge(which))
    for name, meaning, event in _SINGLE:
        yield from family(f"tlsify_{name}_total", "counter", meaning)
        yield sample(f"tlsify_{name}_total", counted[event.value])
    for name, meaning, label, events in _LABELLED:
        yield from family(name, "counter", meaning)
        for value, event in events.items():
            yield sample(name, counted[event.value], spell(**{label: value}))
    yield from family("tlsify_relayed_total", "counter", "Connections relayed, by the reason.")
    for code, number in relayed_by_reason().items():
        yield sample("tlsify_relayed_total", number, spell(reason=code))
    yield from _histogram()
    name = "tlsify_certificate_expiry_timestamp_seconds"
    yield from family(name, "gauge", "When each certificate expires.")
    for subject, moment in dict(about.certificates).items():
        yield sample(name, moment, spell(name=subject))
    yield from family("tlsify_limit", "gauge", "The limits that are set.")
    for limit, most in about.limits.items():
        yield sample("tlsify_limit", most, spell(limit=limit))


def _histogram() -> Iterator[str]:
    name, times = "tlsify_handshake_seconds", handshake_times()
    yield from family(name, "histogram", "Duration of successful handshakes.")
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), times.counts, strict=True):
        yield sample(f"{name}_bucket", number, spell(le=bound))
    yield sample(f"{name}_sum", times.seconds)
    yield sample(f"{name}_count", times.counts[-1])


def is_ready() -> bool:
    """Return whether connections are accepted, and will be: not once the whole server is to end."""
    return gauge(Gauge.STOPPING) == 0


# -- the endpoint


class Endpoint:
    """Answers ``GET /metrics`` and ``GET /healthz`` over plain HTTP/1.1, one request each time.

    /healthz is 200 while the server is ready and 503 once it drains before its end. A request takes
    at most 5 seconds and a few kilobytes, and less if others come, so that a silent crowd keeps no
    other client waiting.
    """

    def __init__(self, listener: socket.socket, about: Callable[[], About]) -> None:
        """Prepare; ``async with`` begins.

        Args:
            listener: bound and listening; it belongs to the endpoint from here on.
            about: the configuration's samples.
        """
        self._listener = listener
        self._about = about
        self._is_open = False
        self._asking: dict[asyncio.Task[None], str] = {}  # from where, the oldest first

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._listener.settimeout(0)
        self._is_open = True
        self._listen()
        return self

    def leave(self) -> None:
        """Accept no more; other processes that listen on the same socket do."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    # asyncio's own servers drop connections accepted just before they are closed.

    def _listen(self) -> None:
        if self._is_open:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock, origin = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # another's, or gone
            return
        except OSError:  # out of descriptors: later there may be one
            loop.remove_reader(self._listener)
            loop.call_later(_ACCEPT_PAUSE, self._listen)
            return
        if len(self._asking) >= _AT_ONCE:
            self._make_room()
        task = loop.create_task(self._answer(sock))
        self._asking[task] = origin[0] if isinstance(origin, tuple) else ""
        task.add_done_callback(lambda done: self._asking.pop(done, None))

    def _make_room(self) -> None:
        """Drop the oldest client of the address with the most.

        An honest client sends its request at once, and has its answer before so many others have
        come.
        """
        ((crowd, _),) = Counter(self._asking.values()).most_common(1)
        oldest = next(task for task, origin in self._asking.items() if origin == crowd)
        del self._asking[oldest]
        oldest.cancel()

    async def __aexit__(self, *_: object) -> None:
        """Stop answering, after the answers under way."""
        self.leave()
        if self._asking:
            await asyncio.wait(self._asking)

    async def _answer(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock, limit=_HEAD_LIMIT)
        try:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._converse(reader, writer)
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        writer.transport.set_write_buffer_limits(high=0)  # so that drain means all of it
        writer.writelines(self._response(head))
        await writer.drain()
        writer.write_eof()
        # Closing on unread bytes would reset the answer.
        budget = _REST_LIMIT
        while budget > 0 and (more := await reader.read(_HEAD_LIMIT)):
            budget -= len(more)

    def _response(self, head: bytes) -> Iterable[bytes]:
        method, target, version = _request_line(head)
        text, kind, allow = "", "text/plain; charset=utf-8", []
        if not version:
            status = 400
        elif method not in {"GET", "HEAD"}:
            status, allow = 405, ["Allow: GET, HEAD"]
        elif target == "/metrics":
            status, text, kind = 200, render(self._about()), _TEXT_FORMAT
        elif target == "/healthz":
            status, text = (200, "ready\n") if is_ready() else (503, "draining\n")
        else:
            status = 404
        body = (text or f"{_REASONS[status]}\n").encode()
        lines = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
            *allow,
        ]
        yield "\r\n".join([*lines, "", ""]).encode()
        if method != "HEAD":
            yield body


def _request_line(head: bytes) -> tuple[str, str, str]:
    """Parse the request line; return three empty strings if it is malformed (RFC 9112 3)."""
    try:
        method, target, version = head.partition(b"\r\n")[0].decode("ascii").split(" ")
    except ValueError:
        return "", "", ""
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        return "", "", ""
    return method, target.partition("?")[0], version
