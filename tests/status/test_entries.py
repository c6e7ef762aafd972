"""Tests of entries."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.connection.handoff import Reason
from tlsify.status import entries
from tlsify.system.sandbox import Restraint

_TEXTS = st.text(max_size=20)
_PAIRS = st.none() | st.tuples(st.integers(0, 2**64), st.integers(0, 2**64))
_ADDRESSES = st.none() | st.tuples(_TEXTS, st.integers(0, 65535))
ENTRIES = st.builds(
    entries.Entry,
    local=_ADDRESSES,
    peer=_ADDRESSES,
    server_name=st.none() | _TEXTS,
    alpn=st.none() | _TEXTS,
    version=_TEXTS,
    suite=_TEXTS,
    group=_TEXTS,
    resumed=st.booleans(),
    offload=st.sampled_from(["kernel", "relay"]),
    reason=st.none() | st.builds(Reason, _TEXTS, _TEXTS, st.none() | _TEXTS),
    age=st.floats(0, 1e9),
    rekeys=_PAIRS,
    records=_PAIRS,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=8,
)
ENTRY = entries.Entry(
    local=("192.0.2.1", 443),
    peer=("192.0.2.7", 50000),
    server_name="example.org",
    alpn="h2",
    version="TLSv1.3",
    suite="TLS_AES_128_GCM_SHA256",
    group="X25519",
    resumed=True,
    offload="relay",
    reason=Reason("no-tls-ulp", "no ULP", None),
    age=1.5,
    rekeys=(1, 2),
    records=(3, 4),
)


def with_field(name: str, value: object) -> list[object]:
    """Make a row of which one field is another."""
    row = entries.row(ENTRY)
    row[list(entries.FIELDS).index(name)] = value
    return row


# -- there and back


@given(st.lists(ENTRIES, max_size=5))
def test_there_and_back(told: list[entries.Entry]) -> None:
    """Whatever is known of connections arrives as it is."""
    (line,) = entries.lines(told)
    assert "\n" not in line
    assert entries.read_rows(line) == (told, 0)


def test_head() -> None:
    """Where the connections are, how many, and what their process has given up."""
    for head in (entries.Head(4026531840, 7), entries.Head(5, 0, Restraint(7, seccomp=True))):
        assert entries.read_head(entries.write_head(head)) == head


def test_long_lines() -> None:
    """However much there is to tell, no line is longer than who reads it wants it to be."""
    long = ENTRY._replace(
        server_name="\x00" * 300,
        alpn="\x1b" * 255,
        reason=Reason("odd", "\xe4" * 2000, "\u20ac" * 2000),
    )
    told = [long] * 256
    lines = list(entries.lines(told))
    assert len(lines) > 8
    assert max(map(len, lines)) <= entries.LONGEST_LINE
    found = [entry for line in lines for entry in entries.read_rows(line)[0]]
    assert len(found) == 256
    assert found[0].server_name == "\x00" * 255
    assert found[0].reason == Reason("odd", "\xe4" * 500, "\u20ac" * 500)
    assert list(entries.lines([])) == ["[]"]


# -- what anybody may have written


@given(_JSON)
def test_any_json(value: object) -> None:
    """What is no list is refused, and what is in it is no row; nothing else goes wrong."""
    text = json.dumps(value)
    if isinstance(value, list):
        assert entries.read_rows(text) == ([], len(value))
    else:
        with pytest.raises(ValueError, match=r"."):
            entries.read_rows(text)
    with pytest.raises(ValueError, match=r"."):
        entries.read_head(text)


@given(st.binary(max_size=200))
def test_any_bytes(line: bytes) -> None:
    """Nor does any text."""
    for read in (entries.read_rows, entries.read_head):
        with suppress(ValueError):
            read(line)


@given(ENTRIES, st.integers(0, len(entries.FIELDS) - 1), _JSON)
def test_any_field(entry: entries.Entry, at: int, value: object) -> None:
    """A field of another type makes a row none, and others' rows are as good as ever."""
    row = entries.row(entry)
    row[at] = value
    found, odd = entries.read_rows(json.dumps([entries.row(ENTRY), row]))
    assert found[0] == ENTRY
    assert len(found) + odd == 2
    assert odd or type(value) in list(entries.FIELDS.values())[at].kinds


NUMBERS = [name for name, field in entries.FIELDS.items() if int in field.kinds]
TEXTS = [name for name, field in entries.FIELDS.items() if str in field.kinds]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "-1e999", "1" * 400, "true", '"1"']
)
def test_odd_numbers(name: str, number: str) -> None:
    """What is no number in its range is none: it would be shown, added up, or divided."""
    text = json.dumps([with_field(name, "HERE")]).replace('"HERE"', number)
    assert entries.read_rows(text) == ([], 1)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["x" * 1021, "x" * 10_000_000, 5, True, ["x"], {"x": "x"}])
def test_odd_texts(name: str, text: Any) -> None:
    """What is longer than it can be is none; nor is what is no text."""
    assert entries.read_rows(json.dumps([with_field(name, text)])) == ([], 1)


@pytest.mark.parametrize("value", [0, 1, None, "true", [], 0.0])
def test_odd_truth(value: object) -> None:
    """Numbers are no truth values, as truth values are no numbers."""
    assert entries.read_rows(json.dumps([with_field("resumed", value)])) == ([], 1)


@pytest.mark.parametrize("value", ["", "Kernel", "device", "\x1b[2J"])
def test_odd_offload(value: str) -> None:
    """Of the two ways to carry a connection one has to be named."""
    assert entries.read_rows(json.dumps([with_field("offload", value)])) == ([], 1)


@pytest.mark.parametrize("row", [[], [[]], {}, "row", None, [None] * 19, [0] * 100_000])
def test_odd_rows(row: object) -> None:
    """What is no row is passed over."""
    text = json.dumps([entries.row(ENTRY), row, entries.row(ENTRY)])
    assert entries.read_rows(text) == ([ENTRY, ENTRY], 1)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "[[" + "1" * 5000 + "]]", "", "\xff", "[", "[]]", "nan"],
)
def test_odd_text(text: str) -> None:
    """Neither depth nor length does harm."""
    for read in (entries.read_rows, entries.read_head):
        with pytest.raises(ValueError, match=r"."):
            read(text)
        with pytest.raises(ValueError, match=r"."):
            read(text.encode("latin-1"))


@pytest.mark.parametrize(
    "odd",
    [
        {"roster": 2},
        {"fields": ["local"]},
        {"network": None},
        {"network": True},
        {"network": 1.5},
        {"connections": -1},
        {"connections": True},
        {"connections": 10**400},
        {"connections": 1.0},
        {"connections": float("inf")},
        {"sandbox": None},
        {"sandbox": [7]},
        {"sandbox": [True, True]},
        {"sandbox": [7, 1]},
        {"sandbox": [-1, True]},
        {"sandbox": [10**400, True]},
    ],
)
def test_odd_heads(odd: dict[str, object]) -> None:
    """A head says of which version it is, and has what can be."""
    head = json.loads(entries.write_head(entries.Head(5, 1)))
    with pytest.raises(ValueError, match=r"."):
        entries.read_head(json.dumps(head | odd))


@pytest.mark.parametrize("what", ["[],", "{},", "1,", '"x",', '{"":1},', "[0],"])
def test_memory(what: str) -> None:
    """A line of the longest makes a few MiB of objects, and none of them stays."""
    line = f"[{what * (entries.LONGEST_LINE // len(what) - 2)}0]"
    assert len(line) <= entries.LONGEST_LINE
    entries.read_rows(line)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    entries.read_rows(line)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 6 * 2**20
    assert now - before < 100_000
