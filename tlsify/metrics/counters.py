"""Counts of events on the connections of this process, or of all workers, since the start."""

from __future__ import annotations

import mmap
import os
import threading
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tlsify.errors import CAUSES, ReasonCode

if TYPE_CHECKING:
    from collections.abc import Hashable


class Event(Enum):
    """A counted event, by its name in reports."""

    __hash__ = object.__hash__  # Enum's own takes Python code

    KEY_UPDATE_RECEIVED = "key_update_received"
    KEY_UPDATE_SENT = "key_update_sent"
    # The peer changed its keys, and the kernel that has ours cannot follow.
    KEY_UPDATE_REFUSED = "key_update_refused"
    KEY_LIMIT_REACHED = "key_limit_reached"
    PEER_ALERT = "peer_alert"
    # A record was wrong, and we said so with an alert.
    PEER_MISBEHAVED = "peer_misbehaved"
    TRUNCATED = "truncated"
    BROKEN = "broken"
    TICKET_RECEIVED = "ticket_received"
    # How connections began (`commit`).
    OFFLOADED = "offloaded"
    RELAYED = "relayed"
    RESUMED = "resumed"
    # Accepting connections (`aio.acceptor`).
    ACCEPTED = "accepted"
    ACCEPT_FAILED = "accept_failed"
    REFUSED_PER_ADDRESS = "refused_per_address"
    # Accepting had to wait, since there were as many as there may be.
    FULL_OF_CONNECTIONS = "full_of_connections"
    FULL_OF_HANDSHAKES = "full_of_handshakes"
    HANDSHAKE_OK = "handshake_ok"
    HANDSHAKE_TOO_SLOW = "handshake_too_slow"
    # It was stalled, and others waited for its place.
    HANDSHAKE_EVICTED = "handshake_evicted"
    HANDSHAKE_ABANDONED = "handshake_abandoned"
    HANDSHAKE_PEER_ALERT = "handshake_peer_alert"
    HANDSHAKE_MISBEHAVED = "handshake_misbehaved"
    # The peer spoke plain HTTP, and had its answer (`http.plain`).
    HANDSHAKE_PLAIN_HTTP = "handshake_plain_http"
    # A trusted proxy sent no header, or a malformed one (`aio.proxy_header`).
    HANDSHAKE_PROXY_HEADER = "handshake_proxy_header"
    HANDSHAKE_IDENTITY = "handshake_identity"
    HANDSHAKE_TRUNCATED = "handshake_truncated"
    HANDSHAKE_BROKEN = "handshake_broken"
    HANDSHAKE_KTLS = "handshake_ktls"
    HANDSHAKE_RESOURCES = "handshake_resources"
    # The process with the private key was gone (`isolation`).
    HANDSHAKE_KEY_HOLDER = "handshake_key_holder"
    # An ACME authority looked at a challenge; the server's certificate was still to come.
    HANDSHAKE_ACME_CHALLENGE = "handshake_acme_challenge"
    HANDSHAKE_NO_CERTIFICATE = "handshake_no_certificate"
    # No thread, descriptor or memory was to be had for a connection's start, or its end in order.
    SHORTAGE = "shortage"
    # Connections that were ended because they were idle, or because their peers did not read.
    IDLE_ENDED = "idle_ended"
    SEND_TIMED_OUT = "send_timed_out"
    # Connections that did not end within the time to drain.
    DRAIN_CUT = "drain_cut"
    # Actions of a supervisor (`serving.supervisor`).
    WORKER_RESTARTED = "worker_restarted"
    # Workers that hung.
    WORKER_HUNG = "worker_hung"
    # Key holders that ended, and were replaced (`isolation.custodian`).
    KEY_HOLDER_RESTARTED = "key_holder_restarted"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload_refused"
    # Connections to backends (`serving.forward`).
    BACKEND_FAILED = "backend_failed"
    BACKEND_DOWN = "backend_down"
    HEALTH_CHECK_OK = "health_check_ok"
    HEALTH_CHECK_FAILED = "health_check_failed"
    DESCRIPTOR_PASSED = "descriptor_passed"
    # Requests on a port for plain HTTP (`serving.plain_http`).
    PLAIN_REDIRECTED = "plain_redirected"
    PLAIN_CHALLENGE = "plain_challenge"
    PLAIN_REFUSED = "plain_refused"
    # Lines of a log that could not be written (`logs`).
    LOG_LINE_LOST = "log_line_lost"
    # Certificates by ACME (`acme.renewal`), and why there was none.
    ACME_OBTAINED = "acme_obtained"
    ACME_UNREACHABLE = "acme_unreachable"
    ACME_REFUSED = "acme_refused"
    ACME_RATE_LIMITED = "acme_rate_limited"
    ACME_CHALLENGE_FAILED = "acme_challenge_failed"
    ACME_TOO_SLOW = "acme_too_slow"
    ACME_MALFORMED = "acme_malformed"
    ACME_NOT_STORED = "acme_not_stored"
    # OCSP responses (`renewal.staples`).
    OCSP_FETCHED = "ocsp_fetched"
    OCSP_FAILED = "ocsp_failed"
    # Processes beside the workers that ended otherwise than in order (`serving.errands`).
    ERRAND_FAILED = "errand_failed"


# How handshakes end, by the names that reports have for it.
HANDSHAKE_OUTCOMES = {
    "ok": Event.HANDSHAKE_OK,
    "deadline": Event.HANDSHAKE_TOO_SLOW,
    "evicted": Event.HANDSHAKE_EVICTED,
    "abandoned": Event.HANDSHAKE_ABANDONED,
    "peer_alert": Event.HANDSHAKE_PEER_ALERT,
    "peer_misbehaved": Event.HANDSHAKE_MISBEHAVED,
    "plain_http": Event.HANDSHAKE_PLAIN_HTTP,
    "proxy_header": Event.HANDSHAKE_PROXY_HEADER,
    "identity": Event.HANDSHAKE_IDENTITY,
    "truncated": Event.HANDSHAKE_TRUNCATED,
    "network": Event.HANDSHAKE_BROKEN,
    "ktls": Event.HANDSHAKE_KTLS,
    "resources": Event.HANDSHAKE_RESOURCES,
    "key_holder": Event.HANDSHAKE_KEY_HOLDER,
    "acme_challenge": Event.HANDSHAKE_ACME_CHALLENGE,
    "no_certificate": Event.HANDSHAKE_NO_CERTIFICATE,
}


class Gauge(Enum):
    """Something that there is now, more or less of it."""

    __hash__ = object.__hash__

    CONNECTIONS = "connections"
    HANDSHAKES = "handshakes"
    WORKERS = "workers"
    WORKERS_DRAINING = "workers_draining"
    STOPPING = "stopping"
    # Seconds since 1970.
    ACME_OBTAINED_AT = "acme_obtained_at"
    OCSP_FETCHED_AT = "ocsp_fetched_at"


# Why connections are relayed: what a refusal may name, and whatever else.
REASONS = (*(code.value for code in ReasonCode if code not in CAUSES), "other")
# How handshakes with backends end, by the same names.
BACKEND_OUTCOMES = (
    "ok", "deadline", "peer_alert", "peer_misbehaved", "identity", "truncated", "network", "ktls",
    "resources",
)  # fmt: skip
# Upper bounds of the histogram of handshakes, in seconds.
BOUNDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Times(NamedTuple):
    """Durations of successful handshakes.

    Attributes:
        counts: number of handshakes within each of `BOUNDS`, and in total.
        seconds: sum of the durations.
    """

    counts: tuple[int, ...]
    seconds: float


# Processes that may count at a time: workers, and earlier generations' workers.
SLOTS = 4096
# Seconds between two heartbeats of a process.
BEAT_INTERVAL = 1.0
# A cell is 8 bytes, aligned, which processors write and read as a whole.
_CELL = 8
# A description of the cells precedes them, for another version that may inherit them.
_HEADER = 2**13
_MICROSECONDS = 1_000_000

_NAMES: tuple[Hashable, ...] = (
    *Event,
    *Gauge,
    *(("relayed", code) for code in REASONS),
    *(("backend", outcome) for outcome in BACKEND_OUTCOMES),
    *(("handshake", bound) for bound in (*BOUNDS, "more", "microseconds")),
    "heartbeats",
)
_PLACES = {name: place for place, name in enumerate(_NAMES)}
_WIDTH = len(_NAMES)
_LAYOUT = f"tlsify counters {SLOTS} {_NAMES}".encode()

_Cells: TypeAlias = "memoryview[int]"


class _Memory:
    """Cells: a row for each process, which alone writes there, so that nothing is ever lost."""

    def __init__(self, cells: _Cells, head: memoryview | None = None, descriptor: int = -1) -> None:
        self.cells = cells
        self.head = head
        self.descriptor = descriptor
        self.row = 0

    @property
    def rows(self) -> int:
        return 1 if self.head is None else self.head[0]

    def add(self, name: Hashable, amount: int) -> None:
        self.cells[self.row * _WIDTH + _PLACES[name]] += amount

    def total(self, name: Hashable) -> int:
        return sum(self.cells[_PLACES[name] : self.rows * _WIDTH : _WIDTH])


_memory = _Memory(memoryview(bytearray(_CELL * _WIDTH)).cast("q"))
# A finalizer that ends a connection may count in the midst of a count.
_lock = threading.RLock()


def count(event: Event, amount: int = 1) -> None:
    """Add one, or more."""
    with _lock:
        _memory.add(event, amount)


def change(gauge: Gauge, by: int) -> None:
    """Add to a gauge; a negative number subtracts."""
    with _lock:
        _memory.add(gauge, by)


def put(gauge: Gauge, number: int) -> None:
    """Set a gauge of this process."""
    with _lock:
        _memory.cells[_memory.row * _WIDTH + _PLACES[gauge]] = number


def relayed(code: str) -> None:
    """Count a connection that is relayed, by its reason."""
    with _lock:
        _memory.add(Event.RELAYED, 1)
        _memory.add(("relayed", code if code in REASONS else "other"), 1)


def backend_handshake(outcome: str) -> None:
    """Count a handshake with a backend, by its outcome, one of `BACKEND_OUTCOMES`."""
    with _lock:
        _memory.add(("backend", outcome), 1)


def handshake_took(seconds: float) -> None:
    """Count a successful handshake, by its duration in seconds."""
    bound = next((each for each in BOUNDS if seconds <= each), "more")
    with _lock:
        _memory.add(Event.HANDSHAKE_OK, 1)
        _memory.add(("handshake", bound), 1)
        _memory.add(("handshake", "microseconds"), round(seconds * _MICROSECONDS))


def counters() -> dict[str, int]:
    """Return every count by name, zeros included; where workers share them, the sums."""
    with _lock:
        return {event.value: _memory.total(event) for event in Event}


def gauge(which: Gauge) -> int:
    """Return a gauge, summed over all workers."""
    with _lock:
        return _memory.total(which)


def relayed_by_reason() -> dict[str, int]:
    """Return the number of relayed connections by the codes of their reasons, zeros included."""
    with _lock:
        return {code: _memory.total(("relayed", code)) for code in REASONS}


def backend_handshakes() -> dict[str, int]:
    """Return the number of handshakes with backends by their outcomes, zeros included."""
    with _lock:
        return {outcome: _memory.total(("backend", outcome)) for outcome in BACKEND_OUTCOMES}


def handshake_times() -> Times:
    """Return the durations of successful handshakes."""
    with _lock:
        each = [_memory.total(("handshake", bound)) for bound in (*BOUNDS, "more")]
        microseconds = _memory.total(("handshake", "microseconds"))
    return Times(
        tuple(sum(each[: at + 1]) for at in range(len(each))), microseconds / _MICROSECONDS
    )


# -- one process of several


def share(descriptor: int | None = None) -> int:
    """Move the counts to memory that forked processes share, and take the first slot there.

    Args:
        descriptor: result of `share` in the program that this process ran before; its counts are
            continued, unless that program's layout differs. It belongs to this call.

    Returns:
        The memory's descriptor, close-on-exec, which lives as long as the process.

    Raises:
        OSError: there is no memory.
    """
    global _memory
    if descriptor is not None:
        found = _open(descriptor)
        if found is not None:
            _memory = found
            return descriptor
        os.close(descriptor)
    descriptor = os.memfd_create("tlsify-counters")
    try:
        os.ftruncate(descriptor, _HEADER + SLOTS * _WIDTH * _CELL)
        os.pwrite(descriptor, _LAYOUT, _CELL)
        made = _open(descriptor)
        if made is None:
            raise OSError("the counters' memory is not readable as it was written")
    except BaseException:
        os.close(descriptor)
        raise
    with _lock:
        made.cells[:_WIDTH] = _memory.cells[:_WIDTH]
        _memory = made
    _use(0)
    return descriptor


def _open(descriptor: int) -> _Memory | None:
    """Map the memory; None if it is laid out otherwise."""
    if os.fstat(descriptor).st_size != _HEADER + SLOTS * _WIDTH * _CELL:
        return None
    if os.pread(descriptor, _HEADER - _CELL, _CELL).rstrip(b"\0") != _LAYOUT:
        return None
    view = memoryview(mmap.mmap(descriptor, 0))
    return _Memory(view[_HEADER:].cast("q"), view[:_CELL].cast("q"), descriptor)


def occupy(slot: int) -> None:
    """Count in a slot of this process's own from here on; a no-op where nothing is shared.

    Args:
        slot: 1 or more, below `SLOTS`, and in no other use. Earlier counts in it stay.
    """
    with _lock:
        if _memory.head is not None:
            _memory.row = slot


def reserve(slot: int) -> None:
    """Include a slot in the sums; only the process that has called `share` may do so."""
    _use(slot)


def vacate(slot: int) -> None:
    """Release the slot of an ended process: its counts stay, its gauges are subtracted."""
    with _lock:
        if _memory.head is None:
            return
        for each in (*Gauge, "heartbeats"):
            _memory.cells[slot * _WIDTH + _PLACES[each]] = 0


def beat() -> None:
    """Show that this process works, each `BEAT_INTERVAL`, for the supervisor (`heartbeats`)."""
    with _lock:
        _memory.add("heartbeats", 1)


def beats(slot: int) -> int:
    """Return the number of calls of `beat` in a slot's process; 0 if no memory is shared."""
    if _memory.head is None:
        return 0
    return _memory.cells[slot * _WIDTH + _PLACES["heartbeats"]]


def _use(slot: int) -> None:
    if _memory.head is not None:
        _memory.head[0] = max(_memory.head[0], slot + 1)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
