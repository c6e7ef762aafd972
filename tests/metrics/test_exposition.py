"""Tests of metrics, with a strict parser of the format, and a client that speaks HTTP badly."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import check_descriptors, descriptors
from tlsify.metrics import exposition
from tlsify.metrics.counters import Event, Gauge, count, handshake_took, put
from tlsify.metrics.exposition import About, Endpoint, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

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


@asynccontextmanager
async def answering() -> AsyncIterator[tuple[str, int]]:
    """Answer on a port of 127.0.0.1."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with Endpoint(listener, About):
        yield listener.getsockname()


async def ask(address: tuple[str, int], sent: bytes, *, ends: bool = False) -> tuple[bytes, bytes]:
    """Send something; gives head and body of the answer."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    if ends:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def test_scrape() -> None:
    """Prometheus gets what it asks for, and as much as is announced."""

    async def run() -> None:
        async with answering() as address:
            head, body = await ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"text/plain; version=0.0.4" in head
            assert f"Content-Length: {len(body)}".encode() in head
            assert parse(body.decode())["tlsify_ready"] == 1
            head, body = await ask(address, b"HEAD /metrics?x HTTP/1.0\r\n\r\n", ends=True)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == b""

    asyncio.run(run())


def test_health() -> None:
    """It is 200, and 503 while everything comes to its end."""

    async def run() -> None:
        async with answering() as address:
            request = b"GET /healthz HTTP/1.1\r\n\r\n"
            assert (await ask(address, request))[0].startswith(b"HTTP/1.1 200 ")
            put(Gauge.STOPPING, 1)
            try:
                head, body = await ask(address, request)
                assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert body == b"draining\n"
            finally:
                put(Gauge.STOPPING, 0)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\nnine bytes", b"405"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"G\xffT /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
    ],
)
def test_bad_requests(sent: bytes, status: bytes) -> None:
    """Each gets an answer that says so, which unread bytes do not reset."""

    async def run() -> None:
        async with answering() as address:
            head, _ = await ask(address, sent)
            assert head.split(b" ")[1] == status

    asyncio.run(run())


@given(st.binary(max_size=300))
def test_any_request_line(head: bytes) -> None:
    """Whatever is sent, it is a request line or it is not."""
    method, target, version = exposition._request_line(head)
    assert bool(version) == (version in {"HTTP/1.1", "HTTP/1.0"})
    assert version or (method, target) == ("", "")


def test_clients_that_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are let go in time, and a crowd of them keeps nobody out for longer."""
    monkeypatch.setattr(exposition, "_PATIENCE", 0.2)
    before, threads = descriptors(), threading.active_count()

    async def run() -> None:
        async with answering() as address:
            stalled = [
                await asyncio.open_connection(*address) for _ in range(exposition._AT_ONCE + 4)
            ]
            for number, (_, writer) in enumerate(stalled):
                writer.write(b"GET /metrics HTTP/1.1\r\n\r\n"[: number % 26])
            for reader, writer in stalled:
                with suppress(ConnectionResetError):
                    await reader.read()
                writer.close()
            assert (await ask(address, b"GET /healthz HTTP/1.1\r\n\r\n"))[1] == b"ready\n"

    asyncio.run(run())
    check_descriptors(before)
    assert threading.active_count() == threads


@pytest.mark.parametrize("said", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n"])
def test_newcomers(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Who asks is answered at once, however many there are who say nothing, or do not hang up."""
    monkeypatch.setattr(exposition, "_PATIENCE", 3600)
    before = descriptors()

    async def run() -> None:
        async with answering() as address:
            crowd = []
            for _ in range(3 * exposition._AT_ONCE):
                crowd.append(await asyncio.open_connection(*address))
                crowd[-1][1].write(said)
                if len(crowd) >= exposition._AT_ONCE:
                    head, _ = await ask(address, b"GET /metrics HTTP/1.1\r\n\r\n", ends=True)
                    assert head.startswith(b"HTTP/1.1 200 ")
            for _, writer in crowd:
                writer.close()

    asyncio.run(run())
    check_descriptors(before)


def test_crowd_from_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes from elsewhere is not dropped for a crowd, however slow he is himself."""
    monkeypatch.setattr(exposition, "_PATIENCE", 3600)

    async def run() -> None:
        async with answering() as address:
            reader, writer = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
            writer.write(b"GET /healthz ")
            crowd = [
                await asyncio.open_connection(*address) for _ in range(2 * exposition._AT_ONCE)
            ]
            writer.write(b"HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(b"ready\n")).startswith(b"HTTP/1.1 200 ")
            for _, each in [*crowd, (reader, writer)]:
                each.close()

    asyncio.run(run())


def test_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds nothing up, the end least of all."""
    monkeypatch.setattr(exposition, "_PATIENCE", 0.2)

    async def run() -> None:
        async with answering() as address:
            with socket.create_connection(address) as sock:
                sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert (await ask(address, b"GET /healthz HTTP/1.1\r\n\r\n"))[1] == b"ready\n"

    asyncio.run(run())


def test_leaving(tmp_path: Path) -> None:
    """Who leaves answers nobody else, while another that listens on the same socket does."""

    async def run() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "metrics"))
        listener.listen()
        async with Endpoint(listener.dup(), About) as old, Endpoint(listener, About):
            old.leave()
            for _ in range(5):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "metrics")
                writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
                assert (await reader.read()).endswith(b"ready\n")
                writer.close()
                await writer.wait_closed()

    asyncio.run(run())
