"""Rows about a process's connections, of bounded length, from untrusted writers."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import starmap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tlsify.connection.handoff import Offload, Reason
from tlsify.system.sandbox import Restraint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# The format of an answer: a head, then lists of rows, each on a line of its own.
FORMAT = 1
# Bytes of a line: parsed, it takes up to thirty times as many.
LONGEST_LINE = 2**17
_MOST_CONNECTIONS = 2**24  # of a process, which has not as many descriptors
_MOST_ABIS = 2**10  # of Landlock, which has had eight in five years

Address: TypeAlias = tuple[str, int]


class Entry(NamedTuple):
    """One connection on a roster, as the process that carries it knows it.

    Attributes:
        local: address and port; None if the connection is broken.
        peer: likewise.
        server_name: SNI; whatever the peer chose.
        alpn: protocol agreed on; likewise.
        version: such as ``TLSv1.3``.
        suite: such as ``TLS_AES_128_GCM_SHA256``.
        group: of the key exchange; empty if unknown.
        resumed: whether a session was.
        offload: "kernel" or "relay".
        reason: why it is relayed; None if it is not.
        age: seconds since the handshake.
        rekeys: KeyUpdates sent and received; None on the relay path, where OpenSSL does them.
        records: number of the next one under the current key, sent and received; None likewise.
    """

    local: Address | None
    peer: Address | None
    server_name: str | None
    alpn: str | None
    version: str
    suite: str
    group: str
    resumed: bool
    offload: str
    reason: Reason | None
    age: float
    rekeys: tuple[int, int] | None
    records: tuple[int, int] | None


class _Field(NamedTuple):
    """Constraint on a field of a row: its types, and its longest or largest value."""

    kinds: frozenset[type]
    most: int


def _text(most: int) -> _Field:
    return _Field(frozenset({str}), most)


def _number(most: int) -> _Field:
    return _Field(frozenset({int}), most)


def _maybe(field: _Field) -> _Field:
    return field._replace(kinds=field.kinds | {type(None)})


_ADDRESS, _PORT, _CODE, _SENTENCE = _maybe(_text(64)), _number(2**16 - 1), _text(64), _text(500)
_NAME, _COUNT = _maybe(_text(255)), _maybe(_number(2**64))
FIELDS: dict[str, _Field] = {
    "local": _ADDRESS,
    "local_port": _PORT,
    "peer": _ADDRESS,
    "peer_port": _PORT,
    "server_name": _NAME,
    "alpn": _maybe(_text(4 * 255)),  # each byte of it may be shown by four characters
    "version": _CODE,
    "suite": _CODE,
    "group": _CODE,
    "resumed": _Field(frozenset({bool}), 1),
    "offload": _CODE,
    "reason": _maybe(_CODE),
    "sentence": _SENTENCE,
    "hint": _maybe(_SENTENCE),
    "age": _Field(frozenset({int, float}), 10**10),
    "updates_sent": _COUNT,
    "updates_received": _COUNT,
    "records_sent": _COUNT,
    "records_received": _COUNT,
}
_OFFLOAD, _OFFLOADS = list(FIELDS).index("offload"), {each.value for each in Offload}
# NaN and Infinity, which are no JSON, become what no place may hold.
_decode = json.JSONDecoder(parse_constant=lambda _name: ...).decode


# -- written


class Head(NamedTuple):
    """The first line of an answer, about the process itself.

    Attributes:
        network: number of the network namespace (``/proc/self/ns/net``).
        connections: number of rows that follow.
        restraint: the rights that the process has given up.
    """

    network: int
    connections: int
    restraint: Restraint = Restraint()


def write_head(head: Head) -> str:
    """Return the first line of an answer, without its end."""
    return json.dumps(
        {
            "roster": FORMAT,
            "network": head.network,
            "connections": head.connections,
            "sandbox": head.restraint,
            "fields": [*FIELDS],
        }
    )


def lines(told: Sequence[Entry]) -> Iterator[str]:
    """Return lines with some connections' rows: at least one line, and none that is too long."""
    text = json.dumps(list(map(row, told)))
    if len(text) <= LONGEST_LINE or len(told) == 1:
        yield text
        return
    half = len(told) // 2
    yield from lines(told[:half])
    yield from lines(told[half:])


def row(entry: Entry) -> list[object]:
    """Return an entry's values in the order of `FIELDS`; long texts are cut."""
    name, why = entry.server_name, entry.reason
    return [
        *(entry.local or (None, 0)),
        *(entry.peer or (None, 0)),
        name and name[: _NAME.most],
        *entry[3:9],
        *((None, "", None) if why is None else _cut(why)),
        entry.age,
        *(entry.rekeys or (None, None)),
        *(entry.records or (None, None)),
    ]


def _cut(why: Reason) -> Reason:
    most = _SENTENCE.most
    return Reason(why.code, why.sentence[:most], why.hint and why.hint[:most])


# -- read


def read_head(line: str | bytes) -> Head:
    """Read the first line of an answer.

    Raises:
        ValueError: it is something else, or of another version.
    """
    found = _parse(line)
    if type(found) is not dict or (found.get("roster"), found.get("fields")) != (FORMAT, [*FIELDS]):
        raise ValueError("an answer of another version")
    network, connections = found.get("network"), found.get("connections")
    if type(network) is not int or type(connections) is not int:
        raise ValueError("a head without its numbers")
    if not 0 <= connections <= _MOST_CONNECTIONS:
        raise ValueError("a head with a number that cannot be")
    restraint = found.get("sandbox")
    if type(restraint) is not list or list(map(type, restraint)) != [int, bool]:
        raise ValueError("a head without a sandbox")
    if not 0 <= restraint[0] < _MOST_ABIS:
        raise ValueError("a head with a sandbox that cannot be")
    return Head(network, connections, Restraint(*restraint))


def read_rows(line: str | bytes) -> tuple[list[Entry], int]:
    """Parse a line of rows from an untrusted writer.

    Returns:
        The entries, and the number of malformed rows: a value has another type, or is out of range.

    Raises:
        ValueError: it is no list.
    """
    rows = _parse(line)
    if type(rows) is not list:
        raise ValueError("no list of rows")
    sound = rows if _are_sound(rows) else [each for each in rows if _are_sound([each])]
    return list(map(_entry, sound)), len(rows) - len(sound)


def _parse(line: str | bytes) -> Any:
    try:
        return _decode(line if isinstance(line, str) else line.decode("utf-8"))
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc


def _are_sound(rows: list[Any]) -> bool:
    """Look at each row's types, then at each place's values: so many at once take half the time."""
    return (
        all(
            type(each) is list and len(each) == len(FIELDS) and _has_kinds(*map(type, each))
            for each in rows
        )
        and all(starmap(_fit, zip(zip(*rows, strict=True), FIELDS.values(), strict=False)))
        and {each[_OFFLOAD] for each in rows} <= _OFFLOADS
    )


def _fit(values: Iterable[Any], field: _Field) -> bool:
    given = [each for each in values if each]
    if str in field.kinds:
        return max(map(len, given), default=0) <= field.most
    return min(given, default=0) >= 0 and max(given, default=0) <= field.most


@lru_cache(256)  # rows differ only in the places of their None
def _has_kinds(*kinds: type) -> bool:
    return all(kind in field.kinds for kind, field in zip(kinds, FIELDS.values(), strict=True))


def _entry(values: list[Any]) -> Entry:  # which are sound
    local, local_port, peer, peer_port, server_name, alpn, version, suite, group = values[:9]
    resumed, offload, code, sentence, hint, age, updated, updates, sent, received = values[9:]
    return Entry(
        None if local is None else (local, local_port),
        None if peer is None else (peer, peer_port),
        server_name,
        alpn,
        version,
        suite,
        group,
        resumed,
        offload,
        None if code is None else Reason(code, sentence, hint),
        age,
        None if updated is None or updates is None else (updated, updates),
        None if sent is None or received is None else (sent, received),
    )
