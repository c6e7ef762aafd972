"""Output of tlsify status for programs: one JSON object, or metrics for Prometheus."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from tlsify import __version__
from tlsify.logs.text import printable
from tlsify.metrics.prometheus import family, sample, spell
from tlsify.status.sockets import IN_USE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tlsify.status.entries import Entry
    from tlsify.status.sockets import Connection, Rates, Survey
    from tlsify.system.sandbox import Restraint

_UNTOLD = {"rosters", "answers"}
_MOST_SERIES = 256


def as_json(seen: Survey, rates: Rates | None = None) -> str:
    """Make the object that docs/cli/status.md describes."""
    return json.dumps(
        {
            "tlsify": __version__,
            "available": seen.available,
            "sockets": [_socket(each, rates) for each in seen.sockets],
            "fallbacks": [asdict(each) for each in seen.fallbacks()],
            "devices": None
            if seen.devices is None
            else [{"name": each.name, **each.features} for each in seen.devices],
            "counters": seen.counters,
            "unseen": [asdict(each) for each in seen.unseen],
        }
    )


def _socket(each: Connection, rates: Rates | None) -> dict[str, object]:
    traffic = each.traffic
    made: dict[str, object] = {
        "processes": [{"pid": one.pid, "command": one.command} for one in each.processes],
        "uid": each.uid,
        "user": each.user,
        "local": {"address": each.local[0], "port": each.local[1]},
        "peer": {"address": each.peer[0], "port": each.peer[1]},
        "inode": each.inode,
        "version": each.version.label if each.version is not None else None,
        "cipher": each.cipher.value if each.cipher is not None else None,
        "tx": each.tx,
        "rx": each.rx,
        "bytes_sent": traffic.sent if traffic is not None else None,
        "bytes_acknowledged": traffic.acknowledged if traffic is not None else None,
        "bytes_received": traffic.received if traffic is not None else None,
        "idle_seconds": traffic.idle if traffic is not None else None,
        "tlsify": None if each.entry is None else _entry(each.entry, each.restraint),
    }
    if rates is not None:
        sent, received = rates.get(each.identity, (None, None))
        made |= {"sent_per_second": sent, "received_per_second": received}
    return made


def _entry(entry: Entry, restraint: Restraint | None) -> dict[str, object]:
    return {
        "server_name": entry.server_name,
        "alpn": entry.alpn,
        "suite": entry.suite,
        "group": entry.group or None,
        "resumed": entry.resumed,
        "age_seconds": entry.age,
        "rekeys": _pair(entry.rekeys),
        "records": _pair(entry.records),
        "reason": None if entry.reason is None else entry.reason.code,
        "sandbox": None if restraint is None else restraint._asdict(),
    }


def _pair(numbers: tuple[int, int] | None) -> dict[str, int] | None:
    return None if numbers is None else dict(zip(("sent", "received"), numbers, strict=True))


# -- Prometheus's text format, version 0.0.4


def metrics(seen: Survey) -> Iterator[str]:
    """Return the lines."""
    entries = [each.entry for each in seen.sockets if each.entry is not None]
    yield from family("tlsify_ktls_available", "gauge", "Whether the tls module is loaded.")
    yield sample("tlsify_ktls_available", int(seen.available))
    yield from family(
        "tlsify_sockets_hidden", "gauge", "Whether the kernel keeps its kTLS sockets from us."
    )
    yield sample("tlsify_sockets_hidden", int(any(u.code == "sockets" for u in seen.unseen)))
    yield from family(
        "tlsify_sockets_incomplete", "gauge", "Whether processes of tlsify did not tell all."
    )
    yield sample("tlsify_sockets_incomplete", int(any(u.code in _UNTOLD for u in seen.unseen)))
    yield from _counted(
        "tlsify_sockets",
        "TLS connections of this network namespace, by what protects them.",
        (_modes(each) for each in seen.sockets),
    )
    yield from _counted(
        "tlsify_sockets_own", "Connections of tlsify.", (_facts(entry) for entry in entries)
    )
    yield from _counted(
        "tlsify_sockets_relayed",
        "Connections that tlsify relays.",
        (_labels(reason=entry.reason.code) for entry in entries if entry.reason is not None),
    )
    yield from family(
        "tlsify_sockets_rekeys", "gauge", "KeyUpdates of the connections that there are."
    )
    rekeys = [entry.rekeys for entry in entries if entry.rekeys is not None]
    for at, direction in enumerate(("sent", "received")):
        count = sum(pair[at] for pair in rekeys)
        yield sample("tlsify_sockets_rekeys", count, _labels(direction=direction))
    if seen.devices is not None:
        yield from family("tlsify_device", "gauge", "What network interfaces can protect.")
        for device in seen.devices:
            for feature, state in device.features.items():
                labels = _labels(device=device.name, feature=feature, state=state)
                yield sample("tlsify_device", 1, labels)
    yield from _tls_stat(seen)


def _tls_stat(seen: Survey) -> Iterator[str]:
    for name, kind, wanted in (
        ("tlsify_tls_stat_current", "gauge", True),
        ("tlsify_tls_stat", "counter", False),
    ):
        yield from family(name, kind, "What /proc/net/tls_stat says.")
        for counter, count in seen.counters.items():
            if (counter in IN_USE) is wanted:
                yield sample(name, count, _labels(counter=counter))


def _counted(name: str, meaning: str, labels: Iterable[str]) -> Iterator[str]:
    """Leave out the rarest of very many: each is a series, and any process can make them."""
    yield from family(name, "gauge", meaning)
    for each, count in sorted(Counter(labels).most_common(_MOST_SERIES)):
        yield sample(name, count, each)


def _modes(each: Connection) -> str:
    version = each.version.label if each.version is not None else "none"
    cipher = each.cipher.value if each.cipher is not None else "none"
    return _labels(tx=each.tx, rx=each.rx, version=version, cipher=cipher)


def _facts(entry: Entry) -> str:
    """Leave out the names: each would be a series of its own, and peers choose them."""
    return _labels(
        offload=entry.offload,
        alpn=entry.alpn or "",
        group=entry.group,
        resumed="yes" if entry.resumed else "no",
    )


def _labels(**values: str) -> str:
    return spell(**{name: printable(value) for name, value in values.items()})
