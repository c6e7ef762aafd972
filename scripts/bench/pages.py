"""Fill the tables of docs/performance.md from the records: what it says is what was measured."""

from __future__ import annotations

import functools
import json
import re
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from scripts.bench import peers, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = peers.ROOT / "docs/performance.md"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOTHING = "-"
# Seconds for a GB that a call for each MB costs, if it takes 12 µs more than elsewhere.
CALL_IN_GUEST = 12e-6 * 1000


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        head: its heading.
        record: which file has the figures, without its suffix.
        experiment: the title of the one in it.
        write: makes a cell of a contender's values and the reference's.
        figure: which of the experiment's; "" for the one that it is about.
    """

    head: str
    record: str
    experiment: str
    write: Callable[[list[float], list[float]], str]
    figure: str = ""


class Table(NamedTuple):
    """A table: what its rows are, the contenders in their order, and the columns."""

    head: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]


def value(values: list[float], _: list[float]) -> str:
    """Write the median."""
    return report.short(statistics.median(values))


def whole(values: list[float], _: list[float]) -> str:
    """Write the median without a fraction."""
    return f"{statistics.median(values):,.0f}"


def guest_calls(values: list[float], _: list[float]) -> str:
    """Write seconds for a GB of what so many calls for a MB take longer in a guest."""
    return f"{statistics.median(values) * CALL_IN_GUEST:.2f}"


def ratio(values: list[float], base: list[float]) -> str:
    """Write the median of the rounds' ratios."""
    found = report.ratios(values, base)
    return f"{statistics.median(found):.2f}" if found else _NOTHING


def both(values: list[float], base: list[float]) -> str:
    """Write the median, and the ratio behind it."""
    return f"{value(values, base)} ({ratio(values, base)})"


_LARGE = "128 MiB, a connection for each"
_COUNTED = "16 MiB, a connection for each"
_LATENCY = "handshake p50 ms"
_IDLE = tuple(f"{count:,} idle connections" for count in (100, 1_000, 10_000))

TABLES = {
    "large": Table(
        "one file of 128 MiB",
        (
            *("tlsify serve, kernel", "tlsify + aiohttp", "tlsify + gunicorn"),
            *("tlsify --pass-fd, C", "tlsify wrap + nginx"),
            *("tlsify serve, relay", "tlsify forward + nginx"),
            *("nginx, kernel", "nginx", "haproxy + nginx", "hitch + nginx", "stunnel + nginx"),
            *("aiohttp + ssl", "openssl s_server, kernel", "nginx, plain", "aiohttp, plain"),
            "AES-128-GCM alone",
        ),
        (
            Column("guest: s for a GB", "bulk-uml", _LARGE, value),
            Column("ratio to nginx, kernel", "bulk-uml", _LARGE, ratio),
            Column("system calls for a MB", "counts-uml", _COUNTED, whole),
            Column("what these cost in the guest, s", "counts-uml", _COUNTED, guest_calls),
            Column("copies through userspace", "counts-uml", _COUNTED, whole, "copied per byte"),
            Column("natively: s of the server for a GB", "bulk", _LARGE, value),
        ),
    ),
    "small": Table(
        "µs for each (ratio to nginx, kernel)",
        (
            *("tlsify serve, kernel", "tlsify serve, relay", "tlsify + aiohttp"),
            *("tlsify + gunicorn", "tlsify --pass-fd, C", "tlsify forward + nginx"),
            *("tlsify wrap + nginx", "tlsify wrap --bare + nginx"),
            *("nginx, kernel", "nginx", "haproxy + nginx", "stunnel + nginx", "aiohttp + ssl"),
            *("nginx, plain", "aiohttp, plain"),
        ),
        (
            Column("1 MiB", "bulk-uml", "1 MiB, 1 connections kept", both),
            Column("64 KiB, 16 connections", "bulk-uml", "64 KiB, 16 connections kept", both),
            Column("4 KiB", "bulk-uml", "4 KiB, 1 connections kept", both),
            Column("4 KiB, 16 connections", "bulk-uml", "4 KiB, 16 connections kept", both),
            Column("4 KiB, 256 connections", "bulk-uml", "4 KiB, 256 connections kept", both),
        ),
    ),
    "pieces": Table(
        "µs for each piece (ratio to CPython's ssl)",
        ("tlsify, kernel", "tlsify, relay", "CPython ssl", "plain"),
        (
            Column("256 bytes", "pieces-uml", "pieces of 256 bytes", both),
            Column("1 KiB", "pieces-uml", "pieces of 1,024 bytes", both),
            Column("4 KiB", "pieces-uml", "pieces of 4,096 bytes", both),
            Column("16 KiB", "pieces-uml", "pieces of 16,384 bytes", both),
        ),
    ),
    "http2": Table(
        "µs of the server's processor time for each (ratio to nginx, h2)",
        tuple(
            f"{name}, {version}"
            for name in (
                *("tlsify + hypercorn, kernel", "tlsify + hypercorn, relay", "hypercorn + ssl"),
                *("nginx, kernel", "nginx"),
            )
            for version in ("h2", "1.1")
        ),
        (
            Column("1 MiB", "http2-uml", "1 MiB, 1 connections kept", both),
            Column("4 KiB", "http2-uml", "4 KiB, 1 connections kept", both),
        ),
    ),
    "handshakes": Table(
        "µs of the server's processor time (ratio to CPython's ssl)",
        (
            *("tlsify, handshake alone", "tlsify library", "tlsify serve", "tlsify agent"),
            *("CPython ssl", "CPython asyncio", "nginx", "haproxy", "stunnel", "openssl s_server"),
        ),
        (
            Column("1.3", "handshakes", "TLS 1.3, ECDSA, X25519, full", both),
            Column("1.3, resumed", "handshakes", "TLS 1.3, ECDSA, X25519, resumed", both),
            Column("1.3, RSA-2048", "handshakes", "TLS 1.3, RSA, X25519, full", both),
            Column("1.2", "handshakes", "TLS 1.2, ECDSA, X25519, full", both),
            Column(
                "1.3, X25519MLKEM768", "handshakes", "TLS 1.3, ECDSA, X25519MLKEM768, full", both
            ),
        ),
    ),
    "first_byte": Table(
        "ms to the first byte of 4 KiB, handshake included (ratio to nginx)",
        (
            *("tlsify serve, kernel", "tlsify serve, relay", "tlsify + gunicorn"),
            *("tlsify + aiohttp", "tlsify forward + nginx", "nginx, kernel", "nginx"),
            *("tlsify --pass-fd, C", "tlsify wrap + nginx", "aiohttp + ssl", "nginx, plain"),
        ),
        (
            Column("in the guest", "first_byte-uml", "4 KiB, TLS 1.3, one client", both),
            Column("natively", "first_byte", "4 KiB, TLS 1.3, one client", both),
        ),
    ),
    "relay": Table(
        "MB for each second of processor time (ratio to stunnel)",
        (
            *("tlsify library", "tlsify forward", "CPython ssl", "stunnel", "hitch", "haproxy"),
            *("socat", "ncat"),
        ),
        (
            Column("in", "relay", "in: records to plaintext", both),
            Column("out", "relay", "out: plaintext to records", both),
        ),
    ),
    "startup": Table(
        "ms of processor time to the ClientHello",
        (
            *("python (bare)", "tlsify connect", "tlsify connect --agent", "CPython ssl"),
            *("openssl s_client", "gnutls-cli", "stunnel", "busybox ssl_client"),
        ),
        (
            Column("warm", "startup", "to the ClientHello, warm", value),
            Column("nothing in the page cache", "startup", "to the ClientHello, cold", value),
        ),
    ),
    "scale": Table(
        "KiB of the server for each idle connection",
        (
            *("tlsify serve, kernel", "tlsify serve, relay", "tlsify forward", "nginx, kernel"),
            *("nginx", "haproxy", "hitch", "stunnel", "aiohttp + ssl"),
        ),
        (
            *(Column(f"natively, {title.split()[0]}", "scale", title, value) for title in _IDLE),
            *(Column(f"guest, {title.split()[0]}", "scale-uml", title, value) for title in _IDLE),
            Column("kernel's part", "scale-uml", _IDLE[1], value, "kernel KiB"),
            Column("ms for a handshake beside 1,000", "scale", _IDLE[1], value, _LATENCY),
        ),
    ),
}


def fill(folder: Path) -> None:
    """Write the page's tables anew.

    Args:
        folder: where the records are.

    Raises:
        OSError: a record, or the page, is not there.
        KeyError: the page wants a table that nobody knows, or a record lacks an experiment.
    """
    records = _Records(folder)

    def table(found: re.Match[str]) -> str:
        return "\n".join([found[1] + lines(TABLES[found[2]], records), found[3]])

    PAGE.write_text(_TABLE.sub(table, PAGE.read_text()))


class _Records:
    """Finds experiments by their titles."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cache  # noqa: B019 - lives as long as one page is written
    def find(self, record: str, title: str) -> dict[str, Any]:
        content = json.loads((self._folder / f"{record}.json").read_text())
        found = {experiment["title"]: experiment for experiment in content["experiments"]}
        experiment: dict[str, Any] = found[title]
        return experiment


def lines(table: Table, records: _Records) -> str:
    """Write a table."""
    heads = [table.head, *(column.head for column in table.columns)]
    rows = [_row(name, table, records) for name in table.rows]
    return "\n".join([f"| {' | '.join(heads)} |", f"|---{'|---:' * len(table.columns)}|", *rows])


def _row(name: str, table: Table, records: _Records) -> str:
    return f"| {' | '.join([name, *_cells(name, table, records)])} |"


def _cells(name: str, table: Table, records: _Records) -> Iterator[str]:
    for column in table.columns:
        experiment = records.find(column.record, column.experiment)
        figure = column.figure or experiment["figure"]
        values = experiment["figures"].get(name, {}).get(figure)
        base = experiment["figures"].get(experiment["reference"], {}).get(figure, [])
        yield column.write(values, base) if values else _NOTHING
