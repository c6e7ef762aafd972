"""Tests of answer."""

from __future__ import annotations

import os
import re
import time
from email import utils
from typing import TYPE_CHECKING

from tests.doubles import descriptors
from tlsify.http import answer as module
from tlsify.http.answer import Answer, FilePart, refusal

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_head() -> None:
    """The status line, the answer's fields, the date, and what becomes of the connection."""
    head = Answer(206, {"Content-Length": "5", "Location": "/\udcff"}).head("close")
    pattern = (
        rb"HTTP/1\.1 206 Partial Content\r\nContent-Length: 5\r\nLocation: /\xff\r\n"
        rb"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        rb"Connection: close\r\n\r\n"
    )
    assert re.fullmatch(pattern, head)
    assert b"Connection" not in Answer(200).head(None)
    assert b"Server" not in head, "versions are nobody's business"


def test_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the answer, and made once for each second."""
    made = []
    original = utils.formatdate

    def counted(second: int, *, usegmt: bool) -> str:
        made.append(second)
        return original(second, usegmt=usegmt)

    monkeypatch.setattr(module, "formatdate", counted)
    for moment in (0.0, 0.9, 1.0, 1.1):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        date = b"Date: Thu, 01 Jan 1970 00:00:0%d GMT" % int(moment)
        assert date in Answer(200).head(None)
    assert made == [0, 1]


def test_refusal() -> None:
    """It has a line for people, of which the fields tell."""
    answer = refusal(405, Allow="GET")
    assert answer.content == b"405: Method Not Allowed"
    assert answer.fields == {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": "23",
        "Allow": "GET",
    }


def test_part(tmp_path: Path) -> None:
    """It is what is there of it; the file is closed by whoever has read it."""
    (tmp_path / "file").write_bytes(b"0123456789")
    before = descriptors()
    for offset, size, expected in ((2, 3, b"234"), (8, 5, b"89"), (20, 1, b"")):
        part = FilePart(os.open(tmp_path / "file", os.O_RDONLY), offset, size)
        assert part.read() == expected
        part.close()
    assert descriptors() <= before
