"""tlsify status: list the connections that the kernel protects, with their processes."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from tlsify import __version__
from tlsify.cli import flush_stdout, printable
from tlsify.cli.options import seconds
from tlsify.errors import ExitCode
from tlsify.sockets import IN_USE, survey

if TYPE_CHECKING:
    import argparse
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from tlsify.cli import GlobalOptions
    from tlsify.sockets import KtlsSocket, Survey

    # By socket: bytes a second, sent and received.
    Rates = Mapping["Identity", tuple[float, float]]
    Identity = tuple[tuple[str, int], tuple[str, int], int]

DESCRIPTION = (
    "List the connections of this network namespace that the kernel protects: whose they are, with "
    "which keys, and what they have carried. The exit status is 0, whether there are any or not."
)
_HEAD = ("PROCESS", "USER", "LOCAL", "PEER", "VERSION", "CIPHER", "TX", "RX", "SENT", "RECEIVED")
_NOT_AVAILABLE = "no connections: the tls module is not loaded, or this kernel has none"
_UNITS = ("", "K", "M", "G", "T", "P", "E")
_STEP = 1024
_MINUTE = 60
_INTERVAL = 2.0
# ECMA-48: to the first line, erase the rest of the line, erase all below.
_HOME, _ERASE_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object, on one line")
    form.add_argument("--prometheus", action="store_true", help="print metrics, for Prometheus")
    parser.add_argument(
        "--watch",
        type=seconds,
        nargs="?",
        const=_INTERVAL,
        metavar="S",
        help=f"look again every S seconds, {_INTERVAL:g} by default, and show the rates",
    )


def misuse(given: argparse.Namespace) -> str | None:
    """Say what does not go together."""
    if given.prometheus and given.watch is not None:
        return "--watch does not go with --prometheus, which asks anew each time"
    return None


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print what there is; again and again, if so asked."""
    del options  # what others do is not changed by what is asked of us
    if arguments.prometheus:
        print(*_metrics(survey(find_processes=False)), sep="", end="")
    elif arguments.watch is not None:
        redraws = sys.stdout is not None and sys.stdout.isatty() and not arguments.json
        try:
            _watch(arguments.watch, as_json=arguments.json, redraws=redraws)
        finally:
            if redraws:
                print()  # the shell goes on below the table
    else:
        seen = survey()
        print(_json(seen) if arguments.json else "\n".join(_table(seen)))
    return ExitCode.OK


# -- watching


def _watch(interval: float, *, as_json: bool, redraws: bool) -> None:
    """Print until somebody ends us; if we redraw, over what was there before."""
    before: Survey | None = None
    asked = 0.0
    while True:
        seen, now = survey(), time.monotonic()
        rates = _rates(before, seen, now - asked)
        if as_json:
            print(_json(seen, rates))
        elif redraws:
            print(_frame(_table(seen, rates), shutil.get_terminal_size()), end="")
        else:
            print("\n".join(_table(seen, rates)), end="\n\n")
        flush_stdout()
        before, asked = seen, now
        time.sleep(interval)


def _identity(each: KtlsSocket) -> Identity:
    return each.local, each.peer, each.inode


def _rates(before: Survey | None, seen: Survey, elapsed: float) -> Rates:
    """Compare; a socket that is seen for the first time has no rates yet."""
    if before is None:
        return {}
    earlier = {_identity(each): each.traffic for each in before.sockets}
    rates = {}
    for each in seen.sockets:
        then, now = earlier.get(_identity(each)), each.traffic
        if then is not None and now is not None and elapsed > 0:
            rates[_identity(each)] = (
                max(now.sent - then.sent, 0) / elapsed,
                max(now.received - then.received, 0) / elapsed,
            )
    return rates


def _frame(lines: Sequence[str], size: os.terminal_size) -> str:
    """Fill the terminal, and no more: a line that wraps, or scrolls, is in the next one's way."""
    shown = [line[: size.columns] for line in lines]
    if len(shown) > size.lines > 0:
        left_out = len(shown) - size.lines + 1
        shown = [*shown[: size.lines - 1], f"... {left_out} more lines"[: size.columns]]
    return _HOME + f"{_ERASE_LINE}\r\n".join(shown) + _ERASE_LINE + _ERASE_BELOW


# -- for people


def _table(seen: Survey, rates: Rates | None = None) -> list[str]:
    """Give the lines of the table, with rates if they are asked for, the busiest first."""
    if not seen.available:
        return [_NOT_AVAILABLE]
    head = [*_HEAD, *(("SENT/s", "RECEIVED/s") if rates is not None else ()), "IDLE"]
    sockets = list(seen.sockets)
    if rates:
        sockets.sort(key=lambda each: sum(rates.get(_identity(each), ())), reverse=True)
    rows = [head, *(_row(each, rates) for each in sockets)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first_number = head.index("SENT")
    line = "  ".join(
        f"{{:{'>' if at >= first_number else '<'}{width}}}" for at, width in enumerate(widths)
    )
    return [*_totals(seen), "", *(line.format(*row) for row in rows)]


def _row(each: KtlsSocket, rates: Rates | None) -> list[str]:
    amounts = ["?", "?"]
    idle = "?"
    if each.traffic is not None:
        amounts = [_amount(each.traffic.sent), _amount(each.traffic.received)]
        idle = _duration(each.traffic.idle)
    if rates is not None:
        rate = rates.get(_identity(each))
        amounts += ["", ""] if rate is None else map(_amount, rate)
    version = each.version.label if each.version is not None else "-"
    cipher = each.cipher.value if each.cipher is not None else "-"
    addresses = map(_address, (each.local, each.peer))
    user = printable(each.user)
    return [_process(each), user, *addresses, version, cipher, each.tx, each.rx, *amounts, idle]


def _process(each: KtlsSocket) -> str:
    """Name the first of them, and say how many there are."""
    if not each.processes:
        return "?" if each.inode else "-"
    first = each.processes[0]
    others = f" +{len(each.processes) - 1}" if each.processes[1:] else ""
    return f"{printable(first.command)} ({first.pid}){others}"


def _totals(seen: Survey) -> Iterator[str]:
    keys = Counter((direction, mode) for each in seen.sockets for direction, mode in _modes(each))
    said = ", ".join(f"{d} by {m} {n}" for (d, m), n in sorted(keys.items()) if m != "none")
    count = len(seen.sockets)
    yield f"{count} connection{'' if count == 1 else 's'}{': ' if said else ''}{said}"
    nonzero = " ".join(f"{name} {count}" for name, count in seen.counters.items() if count)
    yield f"counters: {nonzero or 'all are 0'}"
    for each in seen.unseen:
        yield f"not shown: {each.detail}; {each.remedy}"


def _modes(each: KtlsSocket) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("TX", each.tx), ("RX", each.rx)


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _amount(number: float) -> str:
    """Spell a number of bytes in at most five characters: ``1023``, ``1.5K``, ``12M``."""
    unit = 0
    while round(number) >= _STEP and unit + 1 < len(_UNITS):
        number /= _STEP
        unit += 1
    digits = 1 if unit and round(number, 1) < 10 else 0  # noqa: PLR2004
    return f"{number:.{digits}f}{_UNITS[unit]}"


def _duration(number: float) -> str:
    """Spell seconds: ``0.3s``, ``59s``, ``12m``, ``100h``."""
    if number < _MINUTE:
        return f"{number:.1f}s"
    minutes = int(number) // _MINUTE
    return f"{minutes}m" if minutes < _MINUTE else f"{minutes // _MINUTE}h"


# -- for programs


def _json(seen: Survey, rates: Rates | None = None) -> str:
    """Make the object that docs/cli/status.md describes."""
    return json.dumps(
        {
            "tlsify": __version__,
            "available": seen.available,
            "sockets": [_json_socket(each, rates) for each in seen.sockets],
            "counters": seen.counters,
            "unseen": [asdict(each) for each in seen.unseen],
        }
    )


def _json_socket(each: KtlsSocket, rates: Rates | None) -> dict[str, object]:
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
    }
    if rates is not None:
        sent, received = rates.get(_identity(each), (None, None))
        made |= {"sent_per_second": sent, "received_per_second": received}
    return made


def _metrics(seen: Survey) -> Iterator[str]:
    """Give the lines of Prometheus's text format, version 0.0.4."""
    yield from _family("tlsify_ktls_available", "gauge", "Whether the tls module is loaded.")
    yield f"tlsify_ktls_available {seen.available:d}\n"
    yield from _family(
        "tlsify_sockets_hidden", "gauge", "Whether the kernel keeps its kTLS sockets from us."
    )
    yield f"tlsify_sockets_hidden {bool(seen.unseen):d}\n"
    yield from _family("tlsify_sockets", "gauge", "kTLS sockets of this network namespace.")
    for labels, count in sorted(Counter(map(_labels, seen.sockets)).items()):
        yield f"tlsify_sockets{{{labels}}} {count}\n"
    for name, kind, wanted in (
        ("tlsify_tls_stat_current", "gauge", True),
        ("tlsify_tls_stat", "counter", False),
    ):
        yield from _family(name, kind, "What /proc/net/tls_stat says.")
        for counter, count in seen.counters.items():
            if (counter in IN_USE) is wanted:
                yield f'{name}{{counter="{counter}"}} {count}\n'


def _family(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}\n"
    yield f"# TYPE {name} {kind}\n"


def _labels(each: KtlsSocket) -> str:
    version = each.version.label if each.version is not None else "none"
    cipher = each.cipher.value if each.cipher is not None else "none"
    return f'tx="{each.tx}",rx="{each.rx}",version="{version}",cipher="{cipher}"'
