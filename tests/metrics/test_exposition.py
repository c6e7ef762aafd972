"""Tests of metrics, with a strict parser of the format."""

from __future__ import annotations

import re

import pytest

from tlsify.metrics import exposition
from tlsify.metrics.counters import Event, Gauge, count, handshake_took, put
from tlsify.metrics.exposition import About, Scrape, render

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_HELP = re.compile(rf"# HELP ({_NAME}) \S.*")
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram)")
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")


def parse(text: str) -> dict[str, float]:
    """Read the format as strictly as its description (version 0.0.4) allows; return the samples."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    family = kind = ""
    lines = iter(text.splitlines())
    families: set[str] = set()
    for line in lines:
        if (helped := _HELP.fullmatch(line)) is not None:
            family = helped[1]
            assert family not in families, "one family, one place"
            families.add(family)
            typed = _TYPE.fullmatch(next(lines))
            assert typed is not None
            assert typed[1] == family
            kind = typed[2]
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample is not None, line
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        assert sample[1] in {family + suffix for suffix in suffixes}
        assert (kind == "counter") == sample[1].endswith("_total")
        key = line.rpartition(" ")[0]
        assert key not in found
        found[key] = float(sample[3])
    return found


def test_everything_has_its_place() -> None:
    """Every event and gauge is in there, and each value moves its own metric."""
    shown = {event for _, _, event in exposition._SINGLE}
    shown |= {event for _, _, _, events in exposition._LABELLED for event in events.values()}
    # Spread over reasons; a client's; and those that `ok` counts are what `seconds` counts.
    assert set(Event) - shown == {Event.RELAYED, Event.TICKET_RECEIVED}
    before = parse(render())
    for event in shown:
        count(event)
    after = parse(render())
    moved = {name for name in before if after[name] == before[name] + 1}
    assert len(moved) == len(shown)
    assert before.keys() == after.keys()


def test_histogram() -> None:
    """Buckets contain the smaller ones, and the last is the count."""
    before = parse(render())
    handshake_took(0.004)
    handshake_took(60)
    after = parse(render())
    name = "tlsify_handshake_seconds"

    def more(key: str) -> float:
        return after[name + key] - before[name + key]

    assert [more(f'_bucket{{le="{le}"}}') for le in ("0.0025", "0.005", "10.0", "+Inf")] == [
        0,
        1,
        1,
        2,
    ]
    assert more("_count") == 2
    assert more("_sum") == pytest.approx(60.004)
    buckets = [number for key, number in after.items() if key.startswith(f"{name}_bucket")]
    assert buckets == sorted(buckets)


def test_what_a_configuration_tells() -> None:
    """Expiry and limits are there, whatever is in a name."""
    about = About((("a.example", 1e9), ('odd "\\\n', 2e9)), {"connections": 5})
    found = parse(render(about))
    name = "tlsify_certificate_expiry_timestamp_seconds"
    assert found[f'{name}{{name="a.example"}}'] == 1e9
    assert found[rf'{name}{{name="odd \"\\\n"}}'] == 2e9
    assert found['tlsify_limit{limit="connections"}'] == 5


# -- over HTTP


def ask(line: str) -> tuple[str, bytes]:
    """Ask with a request line; gives head and body of the answer."""
    answer = Scrape(About)(f"{line}\r\n\r\n".encode("latin-1"), None)
    section, _, body = answer.partition(b"\r\n\r\n")
    return section.decode(), body


def test_scrape() -> None:
    """Prometheus gets what it asks for, and as much as is announced."""
    section, body = ask("GET /metrics HTTP/1.1\r\nHost: x")
    assert section.startswith("HTTP/1.1 200 OK\r\n")
    assert "text/plain; version=0.0.4" in section
    assert f"Content-Length: {len(body)}" in section
    assert "Cache-Control: no-store" in section
    assert parse(body.decode())["tlsify_ready"] == 1
    section, body = ask("HEAD /metrics?x HTTP/1.0")
    assert section.startswith("HTTP/1.1 200 OK\r\n")
    assert body == b""


def test_health() -> None:
    """It is 200, and 503 while everything comes to its end."""
    paths = ("/healthz", "/readyz", "/livez")
    assert [ask(f"GET {path} HTTP/1.1")[1] for path in paths] == [b"ready\n"] * 2 + [b"alive\n"]
    put(Gauge.STOPPING, 1)
    try:
        for path in paths[:2]:
            section, body = ask(f"GET {path} HTTP/1.1")
            assert section.startswith("HTTP/1.1 503 Service Unavailable\r\n")
            assert body == b"draining\n"
        assert ask("GET /livez HTTP/1.1")[0].startswith("HTTP/1.1 200 ")
    finally:
        put(Gauge.STOPPING, 0)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET / HTTP/1.1", "404"),
        ("GET /metrics/ HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("GET /metrics HTTP/2", "400"),
        ("GET  /metrics HTTP/1.1", "400"),
        ("", "400"),
        ("G\xffT /metrics HTTP/1.1", "400"),
    ],
)
def test_bad_requests(line: str, status: str) -> None:
    """Each gets an answer that says so."""
    assert ask(line)[0].split(" ")[1] == status
