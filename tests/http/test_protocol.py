"""Tests of protocol: order, bounds, ends, and what becomes of files."""

from __future__ import annotations

import asyncio
import math
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles import descriptors
from tlsify.http import protocol as module
from tlsify.http.answer import Answer, FilePart, refusal
from tlsify.http.protocol import HttpProtocol

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from tlsify.http.request import Request

GET = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = 100_000


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and takes as much as it is told to."""

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.end = ""
        self.reads = True
        self.room = 2**30
        protocol.connection_made(self)

    @property
    def sent(self) -> bytes:
        """All that has been written."""
        return b"".join(self.writes)

    def write(self, data: Any) -> None:
        """Keep it."""
        assert not self.end
        self.writes.append(bytes(data))
        self.room -= len(data)
        if self.room < 0:
            self.protocol.pause_writing()

    def is_closing(self) -> bool:
        """Return whether the protocol has ended it."""
        return bool(self.end)

    def close(self) -> None:
        """End in order."""
        self._end("closed")

    def abort(self) -> None:
        """End at once."""
        self._end("aborted")

    def _end(self, how: str) -> None:
        if not self.end:
            self.end = how
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def pause_reading(self) -> None:
        """Note it."""
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        """Note it."""
        assert not self.reads
        self.reads = True

    def receive(self, *paths: str) -> None:
        """Send requests for these paths."""
        self.protocol.data_received("".join(map(GET.format, paths)).encode())


class Place:
    """A protocol on a wire, on a loop whose sendfile asks for leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.living: set[HttpProtocol] = set()
        self.leave = asyncio.Event()
        self.error: Exception | None = None
        self.wire = Wire(HttpProtocol(self.answer, self.living))
        loop: Any = asyncio.get_running_loop()
        loop.sendfile = self._sendfile

    def answer(self, request: Request) -> Answer:
        """Answer with so many bytes of a file as the path says, or with the path itself."""
        self.asked.append(request.target)
        if request.method not in {"GET", "HEAD"}:
            return refusal(405)
        if not request.path[1:].isdigit():
            if request.path == "/bug":
                raise KeyError("bug")
            return Answer(200, {"Content-Length": str(len(request.path))}, request.path.encode())
        size = int(request.path[1:])
        descriptor = os.open(self.folder / "file", os.O_RDONLY)
        return Answer(200, {"Content-Length": str(size)}, FilePart(descriptor, 0, size))

    async def _sendfile(self, wire: Wire, file: Any, offset: int, size: int) -> int:
        await self.leave.wait()
        if self.error is not None:
            raise self.error
        if wire.end:
            raise ConnectionResetError
        content = os.pread(file.fileno(), size, offset)
        wire.write(content)
        return len(content)


@pytest.fixture(autouse=True)
def _long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is done in one turn of the loop does not depend on how busy the machine is."""
    monkeypatch.setattr(module, "_LONGEST_TURN", math.inf)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file."""
    (tmp_path / "file").write_bytes(bytes(BIG))
    return tmp_path


def _own_clock() -> Callable[[float], None]:
    """Stop the loop's clock; return a function that moves it."""
    loop: Any = asyncio.get_running_loop()
    now = loop.time()

    def go(seconds: float) -> None:
        nonlocal now
        now += seconds

    loop.time = lambda: now
    return go


async def _rounds(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it; nothing stays open."""
    before = descriptors()
    asyncio.run(work)
    assert descriptors() <= before


def test_one_write_for_a_small_file(folder: Path) -> None:
    """All that fits in a record goes in one; a byte more has the head go first."""

    async def work() -> None:
        place = Place(folder)
        place.wire.receive("/10000")
        head = len(place.wire.sent) - 10_000
        place.wire.receive(f"/{16_384 - head}")
        assert [len(each) for each in place.wire.writes] == [head + 10_000, 16_384]
        place.wire.writes.clear()
        place.leave.set()
        place.wire.receive(f"/{16_385 - head}")
        await _rounds()
        assert [len(each) for each in place.wire.writes] == [head, 16_385 - head]

    _run(work())


def test_order(folder: Path) -> None:
    """A request waits for the answers before it, though those take their time."""

    async def work() -> None:
        place = Place(folder)
        place.wire.receive("/first", f"/{BIG}", "/second")
        place.wire.receive("/third")
        assert place.asked == ["/first", f"/{BIG}"]
        holds = not place.wire.reads
        assert holds, "what is not even parsed makes no room for more"
        place.leave.set()
        await _rounds()
        assert place.wire.reads
        assert place.asked == ["/first", f"/{BIG}", "/second", "/third"]
        assert place.wire.sent.endswith(b"/third")

    _run(work())


@pytest.mark.parametrize(("seconds", "at_once"), [(math.inf, module._TURN), (-1.0, 1)])
def test_many_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, at_once: int
) -> None:
    """Requests are parsed a little ahead, and answered a few at a time; others have their turn."""
    monkeypatch.setattr(module, "_LONGEST_TURN", seconds)

    async def work() -> None:
        place = Place(folder)
        number = 10_000
        place.wire.receive(*(["/a"] * number))
        turns = 0
        while (given := len(place.asked)) < number:
            turns += 1
            assert given == at_once * turns
            assert len(place.wire.protocol._reader.found) <= module._PIECE / 18
            assert place.wire.reads is not bool(place.wire.protocol._unread)
            await asyncio.sleep(0)
        await _rounds()
        assert place.wire.reads
        assert place.wire.sent.count(b"HTTP/1.1 200") == number

    _run(work())


def test_client_that_takes_nothing(folder: Path) -> None:
    """Answers wait until it does, and so do its requests."""

    async def work() -> None:
        place = Place(folder)
        place.wire.room = 1000
        place.wire.receive(*(["/a"] * 1000))
        await _rounds()
        asked = len(place.asked)
        assert asked < 20
        assert not place.wire.reads
        place.wire.protocol.end_if_late(0, 0)
        assert not place.wire.is_closing(), "that is for others to judge"
        place.wire.room = 2**30
        place.wire.protocol.resume_writing()
        await _rounds(100)
        assert len(place.asked) == 1000

    _run(work())


@pytest.mark.parametrize("last", ["POST", "HTTP/1.0", "close", "nonsense", "CONNECT", "Upgrade"])
def test_nothing_is_read_after_the_last_answer(folder: Path, last: str) -> None:
    """The client is told which one it is; requests before it have theirs."""
    lines = {
        "POST": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe",
        "HTTP/1.0": "GET /a HTTP/1.0\r\n\r\n",
        "close": "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "nonsense": "nonsense",
        "CONNECT": "CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        "Upgrade": "GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    }

    async def work() -> None:
        place = Place(folder)
        place.leave.set()
        place.wire.protocol.data_received(
            (GET.format(f"/{BIG}") + GET.format("/b") + lines[last]).encode()
        )
        if last != "POST":
            place.wire.receive("/c")
        await _rounds()
        assert place.wire.end == "closed"
        assert place.wire.sent.count(b"HTTP/1.1 ") == 3
        assert place.wire.sent.count(b"Connection: close\r\n") == 1
        assert "/c" not in place.asked
        place.wire.protocol.data_received(b"more")
        assert not place.living

    _run(work())


def test_content_that_has_come(folder: Path) -> None:
    """Refused with its request, it costs the client no connection."""

    async def work() -> None:
        place = Place(folder)
        request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        for _ in range(3):
            place.wire.protocol.data_received(request)
        assert place.wire.sent.count(b"HTTP/1.1 405") == 3
        assert b"Connection" not in place.wire.sent
        place.wire.protocol.data_received(request[:-1])
        assert place.wire.end == "closed"

    _run(work())


def test_keep_alive_of_1_0(folder: Path) -> None:
    """A client of HTTP/1.0 that asks for it is told that it has it."""

    async def work() -> None:
        place = Place(folder)
        request = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        for _ in range(2):
            place.wire.protocol.data_received(request)
        assert place.wire.sent.count(b"Connection: keep-alive\r\n") == 2
        assert not place.wire.is_closing()

    _run(work())


@pytest.mark.parametrize("ends_amid", [False, True])
def test_client_that_has_nothing_more_to_ask(folder: Path, ends_amid: bool) -> None:
    """It still gets the answers that it has asked for."""

    async def work() -> None:
        place = Place(folder)
        place.wire.receive(f"/{BIG}", "/a")
        if ends_amid:
            place.wire.protocol.data_received(b"GET /b HT")
        assert place.wire.protocol.eof_received()
        place.leave.set()
        await _rounds()
        assert place.wire.end == "closed"
        assert place.asked == [f"/{BIG}", "/a"]
        assert place.wire.sent.endswith(b"/a")
        assert not Place(folder).wire.protocol.eof_received(), "the transport closes by itself"

    _run(work())


# -- time


def test_time_for_a_request(folder: Path) -> None:
    """It begins with the first byte, and does not begin anew with each; then it is 408."""

    async def work() -> None:
        go = _own_clock()
        place = Place(folder)
        place.wire.receive("/a")
        go(70)
        for byte in b"GET / HTTP/1.1\r\nHost: ":
            place.wire.protocol.data_received(bytes([byte]))
            place.wire.protocol.end_if_late(75, 30)
            assert not place.wire.is_closing()
            go(1.25)
        go(3)
        place.wire.protocol.end_if_late(75, 30)
        assert place.wire.writes[-1].startswith(b"HTTP/1.1 408 ")
        assert place.wire.end == "closed"

    _run(work())


def test_time_between_requests(folder: Path) -> None:
    """It begins with the end of an answer, however long that took."""

    async def work() -> None:
        go = _own_clock()
        place = Place(folder)
        place.wire.receive(f"/{BIG}")
        go(1000)
        place.wire.protocol.end_if_late(75, 30)
        place.leave.set()
        await _rounds()
        go(74)
        place.wire.protocol.data_received(b"\r\n")  # which is nothing
        place.wire.protocol.end_if_late(75, 30)
        assert not place.wire.is_closing()
        go(2)
        place.wire.protocol.end_if_late(75, 30)
        assert place.wire.end == "closed"
        assert b"408" not in place.wire.sent

    _run(work())


# -- files


def test_client_that_vanishes_amid(folder: Path) -> None:
    """Files of answers that nobody gets are closed, or not even opened."""

    async def work() -> None:
        place = Place(folder)
        place.wire.receive(*[f"/{BIG}"] * 3)
        place.wire.abort()
        await _rounds()
        place.leave.set()
        await _rounds()
        assert place.asked == [f"/{BIG}"]
        assert not place.living

    _run(work())


def test_loop_that_ends_amid(folder: Path) -> None:
    """The connection is aborted, since what was announced has not been sent."""
    wires = []

    async def work() -> None:
        place = Place(folder)
        wires.append(place.wire)
        place.wire.receive(f"/{BIG}")
        await asyncio.sleep(0)

    _run(work())
    assert wires[0].end == "aborted"


@pytest.mark.parametrize("size", [1000, BIG])
def test_file_that_is_shorter(folder: Path, size: int, caplog: pytest.LogCaptureFixture) -> None:
    """The connection is aborted; the next answer would be taken for the rest."""

    async def work() -> None:
        place = Place(folder)
        place.leave.set()
        (folder / "file").write_bytes(bytes(size - 1))
        place.wire.receive(f"/{size}", "/a")
        await _rounds()
        assert place.wire.end == "aborted"
        assert place.asked == [f"/{size}"]

    _run(work())
    assert (f"a file had {size - 1} of {size} bytes" in caplog.text) == (size < BIG)


@pytest.mark.parametrize("size", [1000, BIG])
def test_file_that_cannot_be_read(
    folder: Path, size: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Likewise, and the log says why."""

    def fail(_: FilePart) -> bytes:
        raise OSError(5, "it is broken")

    monkeypatch.setattr(FilePart, "read", fail)

    async def work() -> None:
        place = Place(folder)
        place.error = OSError(5, "it is broken")
        place.leave.set()
        place.wire.receive(f"/{size}", "/a")
        await _rounds()
        assert place.wire.end == "aborted"

    _run(work())
    assert caplog.messages == ["connection ended: a file cannot be read: EIO: it is broken"]


def test_bug(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told that it is not to blame, and the log has what it was."""

    async def work() -> None:
        place = Place(folder)
        place.wire.receive("/bug")
        assert place.wire.sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert place.wire.end == "closed"

    _run(work())
    assert "KeyError" in caplog.text


# -- any bytes

_PIECES = st.sampled_from(
    (
        *(GET.format("/a").encode(), GET.format("/300").encode(), GET.format(f"/{BIG}").encode()),
        *(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /a HTTP/1.1\r\nHost: x\r\n", b"\r\n"),
        *(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", b"abc", b"Content-Length: 3\r\n\r\n"),
        *(b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", b"0\r\n\r\n", b"Upgrade: x\r\n"),
        *(b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"Connection: upgrade\r\n", b"Expect: x\r\n", b"\xff"),
    )
)


def _meet(folder: Path, stream: bytes, sizes: list[int]) -> list[bytes]:
    """Send the stream in pieces, and take answers now and then; return their statuses."""
    wires: list[Wire] = []

    async def work() -> None:
        place = Place(folder)
        place.leave.set()
        wire, rest = place.wire, stream
        protocol = wire.protocol
        wires.append(wire)
        for size in sizes:
            if not wire.is_closing():
                protocol.data_received(rest[:size])
            rest = rest[size:]
            wire.room = size if size % 3 else wire.room
            await _rounds(size % 4)
            if protocol._is_full:
                protocol.resume_writing()
        wire.room = 2**30
        while protocol._is_busy and not wire.is_closing():
            if protocol._is_full:
                protocol.resume_writing()
            await _rounds()
        if not wire.is_closing():
            assert wire.reads
            protocol.end_if_late(0, 0)
        await _rounds()
        assert not place.living

    _run(work())
    assert wires[0].end == "closed"
    return re.findall(rb"HTTP/1\.1 (\d+)", wires[0].sent)


@settings(max_examples=150, deadline=None)
@given(st.lists(_PIECES, max_size=20), st.randoms(use_true_random=False))
def test_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], chance: random.Random
) -> None:
    """However they come, the answers are the same, but that late content ends the connection."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "file").write_bytes(bytes(BIG))
    stream = b"".join(pieces)
    sizes: list[int] = []
    while sum(sizes) < len(stream):
        sizes.append(chance.randint(1, max(1, len(stream) // 3)))
    whole, cut = _meet(folder, stream, [len(stream)]), _meet(folder, stream, sizes)
    number = min(len(whole), len(cut))
    assert [each for each in whole[:number] if each != b"408"] == [
        each for each in cut[:number] if each != b"408"
    ]
