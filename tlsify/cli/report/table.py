"""Output of tlsify status for users: totals, gaps, and a line for each connection."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.logs.text import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tlsify.status.entries import Entry
    from tlsify.status.sockets import Connection, Rates, Survey
    from tlsify.system.sandbox import Restraint

_NOT_AVAILABLE = "no connections: the tls module is not loaded, or this kernel has none"
# To the right, as numbers stand.
_NUMBERS = {"SENT", "RECEIVED", "SENT/s", "RECEIVED/s", "IDLE", "AGE", "REKEYS", "RECORDS"}
# Left out where a line would be too long for the terminal, the first one first.
_DISPENSABLE = (
    *("IDLE", "USER", "CIPHER", "RECEIVED", "VERSION", "SENT", "ALPN", "RECEIVED/s", "RX"),
    *("AGE", "LOCAL", "REASON", "NAME"),
)
_VERSIONS: dict[ProtocolVersion | None, str] = {None: "-"}
_VERSIONS |= {version: version.label for version in ProtocolVersion}
_CIPHERS: dict[Aead | None, str] = {None: "-"}
_CIPHERS |= {cipher: cipher.value for cipher in Aead}
_LONGEST_NAME = 32
_MOST_REASONS = 16
_GAP = "  "
_UNITS = ("", "K", "M", "G", "T", "P", "E")
_STEP = 1024
_TWO_DIGITS = 10  # before the point: none is needed after it
_MINUTE = 60
# ECMA-48: to the first line, erase the rest of the line, erase all below.
_HOME, _ERASE_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def lines(
    seen: Survey, rates: Rates | None = None, *, wide: bool = False, width: int | None = None
) -> list[str]:
    """Return the lines of the report.

    Args:
        seen: what to report.
        rates: if they are asked for; the busiest come first then.
        wide: show columns that few want.
        width: of the terminal; columns that few miss are left out where that is too little.
    """
    if not seen.available and not seen.sockets:
        return [_NOT_AVAILABLE, *_asides(seen)]
    sockets = list(seen.sockets)
    if rates:
        sockets.sort(key=lambda each: sum(rates.get(each.identity, ())), reverse=True)
    columns = _columns(sockets, rates, wide=wide)
    if width is not None:
        _fit(columns, width)
    return [*_totals(seen, rates), *_asides(seen), "", *_layout(columns)]


def frame(shown: Sequence[str], size: os.terminal_size) -> str:
    """Fill the terminal, and no more: a line that wraps, or scrolls, is in the next one's way."""
    shown = [line[: size.columns] for line in shown]
    if len(shown) > size.lines > 0:
        left_out = len(shown) - size.lines + 1
        shown = [*shown[: size.lines - 1], f"... {left_out} more lines"[: size.columns]]
    return _HOME + f"{_ERASE_LINE}\r\n".join(shown) + _ERASE_LINE + _ERASE_BELOW


# -- above the table


def _totals(seen: Survey, rates: Rates | None) -> Iterator[str]:
    keys = Counter(
        (direction, mode)
        for each in seen.sockets
        for direction, mode in (("TX", each.tx), ("RX", each.rx))
    )
    said = [f"{d} by {m} {n}" for (d, m), n in sorted(keys.items()) if m not in {"none", "relay"}]
    if relayed := keys["TX", "relay"]:
        said.append(f"relayed {relayed}")
    count = len(seen.sockets)
    line = f"{count} connection{'' if count == 1 else 's'}{': ' if said else ''}{', '.join(said)}"
    if rates:
        sent, received = map(sum, zip(*rates.values(), strict=True))
        line += f"; {_amount(sent)}/s sent, {_amount(received)}/s received"
    yield line
    if seen.available:
        nonzero = " ".join(f"{name} {count}" for name, count in seen.counters.items() if count)
        yield f"counters: {nonzero or 'all are 0'}"


def _asides(seen: Survey) -> Iterator[str]:
    fallbacks = seen.fallbacks()
    for each in fallbacks[:_MOST_REASONS]:
        hint = f"; {printable(each.hint)}" if each.hint is not None else ""
        why = printable(each.sentence)
        yield f"relayed {each.connections} ({printable(each.code)}): {why}{hint}"
    if rest := fallbacks[_MOST_REASONS:]:
        yield f"relayed {sum(each.connections for each in rest)}: for {len(rest)} more reasons"
    if seen.devices is not None:
        for device in seen.devices:
            yield f"device {printable(str(device))}"
        if not seen.devices:
            yield "device: no network interface can protect records"
    for unseen in seen.unseen:
        yield f"not shown: {unseen.detail}; {unseen.remedy}"


# -- the table


def _columns(
    sockets: Sequence[Connection], rates: Rates | None, *, wide: bool
) -> dict[str, list[str]]:
    """Make each column, by its head; what only tlsify tells is left out where it tells nothing."""
    entries = [each.entry for each in sockets]
    made = {
        "PROCESS": list(map(_process, sockets)),
        "USER": [printable(each.user) for each in sockets],
        "LOCAL": [_address(each.local) for each in sockets],
        "PEER": [_address(each.peer) for each in sockets],
    }
    if any(entries):
        made["NAME"] = _told(entries, lambda entry: _name(entry.server_name))
        made["ALPN"] = _told(entries, lambda entry: _name(entry.alpn))
    made |= {
        "VERSION": [_VERSIONS[each.version] for each in sockets],
        "CIPHER": [_CIPHERS[each.cipher] for each in sockets],
        "TX": [each.tx for each in sockets],
        "RX": [each.rx for each in sockets],
    }
    traffic = [each.traffic for each in sockets]
    made["SENT"] = ["?" if each is None else _amount(each.sent) for each in traffic]
    made["RECEIVED"] = ["?" if each is None else _amount(each.received) for each in traffic]
    if rates is not None:
        made |= _rate_columns(sockets, rates)
    made["IDLE"] = ["?" if each is None else _duration(each.idle) for each in traffic]
    if any(entries):
        made["AGE"] = _told(entries, lambda entry: _duration(entry.age))
    if any(entries) and wide:
        made |= {
            "GROUP": _told(entries, lambda entry: _name(entry.group)),
            "RESUMED": _told(entries, lambda entry: "yes" if entry.resumed else "no"),
            "REKEYS": _told(entries, lambda entry: _pair(entry.rekeys)),
            "RECORDS": _told(entries, lambda entry: _pair(entry.records)),
            "SANDBOX": [_restraint(each.restraint) for each in sockets],
        }
    if any(entry is not None and entry.reason is not None for entry in entries):
        made["REASON"] = _told(
            entries, lambda entry: "-" if entry.reason is None else _name(entry.reason.code)
        )
    return made


def _restraint(restraint: Restraint | None) -> str:
    if restraint is None:
        return "-"
    told = [f"landlock {restraint.landlock}"] if restraint.landlock else []
    return ", ".join([*told, "seccomp"] if restraint.seccomp else told) or "no"


def _told(entries: Sequence[Entry | None], say: Callable[[Entry], str]) -> list[str]:
    return ["-" if entry is None else say(entry) for entry in entries]


def _rate_columns(sockets: Sequence[Connection], rates: Rates) -> Mapping[str, list[str]]:
    pairs = [rates.get(each.identity) for each in sockets]
    return {
        head: ["" if pair is None else _amount(pair[at]) for pair in pairs]
        for at, head in enumerate(("SENT/s", "RECEIVED/s"))
    }


def _fit(columns: dict[str, list[str]], width: int) -> None:
    widths = {head: max(map(len, (head, *cells))) for head, cells in columns.items()}
    for head in _DISPENSABLE:
        if sum(widths.values()) + len(_GAP) * (len(widths) - 1) <= width:
            return
        columns.pop(head, None)
        widths.pop(head, None)


def _layout(columns: Mapping[str, list[str]]) -> Iterator[str]:
    pieces = []
    for head, cells in columns.items():
        side = ">" if head in _NUMBERS else "<"
        pieces.append(f"{{:{side}{max(map(len, (head, *cells)))}}}")
    line = _GAP.join(pieces).format
    yield line(*columns).rstrip()
    for row in zip(*columns.values(), strict=True):
        yield line(*row).rstrip()


# -- cells


def _process(each: Connection) -> str:
    """Name the first of them, and say how many there are."""
    if not each.processes:
        return "?" if each.inode else "-"
    first = each.processes[0]
    others = f" +{len(each.processes) - 1}" if each.processes[1:] else ""
    return f"{printable(first.command)} ({first.pid}){others}"


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _name(text: str | None) -> str:
    """Show what a peer has chosen, and not more of it than there is room for."""
    shown = printable(text or "-")
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 3]}..."


def _pair(numbers: tuple[int, int] | None) -> str:
    return "-" if numbers is None else "/".join(map(str, numbers))


def _amount(number: float) -> str:
    """Spell a number of bytes in at most five characters: ``1023``, ``1.5K``, ``12M``."""
    unit = 0
    while round(number) >= _STEP and unit + 1 < len(_UNITS):
        number /= _STEP
        unit += 1
    digits = 1 if unit and round(number, 1) < _TWO_DIGITS else 0
    return f"{number:.{digits}f}{_UNITS[unit]}"


def _duration(number: float) -> str:
    """Spell seconds: ``0.3s``, ``59s``, ``12m``, ``100h``."""
    if number < _MINUTE:
        return f"{number:.1f}s"
    minutes = int(number) // _MINUTE
    return f"{minutes}m" if minutes < _MINUTE else f"{minutes // _MINUTE}h"
