"""Metrics of a server in Prometheus's text format, and the answers to requests for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tlsify import __version__
from tlsify.http.answer import refusal, short
from tlsify.http.endpoint import request_line
from tlsify.metrics.counters import (
    BOUNDS,
    HANDSHAKE_OUTCOMES,
    Event,
    Gauge,
    backend_handshakes,
    counters,
    gauge,
    handshake_times,
    relayed_by_reason,
)
from tlsify.metrics.prometheus import family, sample, spell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"

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
        "tlsify_health_checks_total",
        "Health checks of backends, of all workers.",
        "outcome",
        {"ok": Event.HEALTH_CHECK_OK, "failed": Event.HEALTH_CHECK_FAILED},
    ),
    (
        "tlsify_plain_requests_total",
        "Requests on the address for plain HTTP, by their answers.",
        "answer",
        {
            "redirect": Event.PLAIN_REDIRECTED,
            "challenge": Event.PLAIN_CHALLENGE,
            "error": Event.PLAIN_REFUSED,
        },
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
    ("backend_downs", "Times that a worker found a backend down.", Event.BACKEND_DOWN),
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
        backends: by name, and whether each is up, as this worker sees it.
    """

    certificates: tuple[tuple[str, float], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    backends: Mapping[str, bool] = field(default_factory=dict)


_NOTHING = About()


def render(about: About = _NOTHING) -> str:
    """Return all metrics in Prometheus's text format, version 0.0.4."""
    return "".join(_lines(about))


def _lines(about: About) -> Iterator[str]:
    counted = counters()
    yield from family("tlsify_info", "gauge", "The version that runs.")
    yield sample("tlsify_info", 1, spell(version=__version__))
    yield from family("tlsify_ready", "gauge", "0 from a request to end on, otherwise 1.")
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
    name = "tlsify_backend_handshakes_total"
    yield from family(name, "counter", "Handshakes with backends by how they ended.")
    for outcome, number in backend_handshakes().items():
        yield sample(name, number, spell(outcome=outcome))
    yield from _histogram()
    name = "tlsify_certificate_expiry_timestamp_seconds"
    yield from family(name, "gauge", "When each certificate expires.")
    for subject, moment in dict(about.certificates).items():
        yield sample(name, moment, spell(name=subject))
    yield from family(
        "tlsify_backend_up", "gauge", "Backends, as the worker that answers sees them."
    )
    for backend, is_up in about.backends.items():
        yield sample("tlsify_backend_up", int(is_up), spell(backend=backend))
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


# -- over HTTP


class Scrape:
    """Answers ``GET /metrics``, ``/readyz`` and ``/livez`` (`http.endpoint.Respond`).

    /readyz is 200 while the server is ready and 503 once it is to end, as is /healthz; /livez is
    200 as long as a worker answers.
    """

    def __init__(self, about: Callable[[], About]) -> None:
        """Store what returns the configuration's samples."""
        self._about = about

    def __call__(self, head: bytes, _name: object) -> bytes:
        """Return the answer to a request."""
        method, target, version = request_line(head)
        path = target.partition("?")[0]
        if not version:
            answer = refusal(400)
        elif method not in {"GET", "HEAD"}:
            answer = refusal(405, Allow="GET, HEAD")
        elif path == "/metrics":
            answer = short(200, render(self._about()), _TEXT_FORMAT)
        elif path == "/livez":
            answer = short(200, "alive\n")
        elif path in {"/readyz", "/healthz"}:
            answer = short(200, "ready\n") if is_ready() else short(503, "draining\n")
        else:
            answer = refusal(404)
        answer.fields["Cache-Control"] = "no-store"
        return answer.spell(with_content=method != "HEAD")
