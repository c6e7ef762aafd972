"""Tests of plain HTTP: who is redirected, and where ACME's server gets its answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tlsify.logs.access import AccessLog
from tlsify.logs.file import LogFile
from tlsify.logs.messages import JSON
from tlsify.metrics.counters import counters
from tlsify.serving.plain_http import PlainHttp, Redirector

if TYPE_CHECKING:
    from pathlib import Path

_CHALLENGE = "/.well-known/acme-challenge/"


def _ask(line: str) -> list[str]:
    plan = PlainHttp(port=8443, challenge={"token": "proof"}.get)
    head = f"{line} HTTP/1.1\r\nHost: x.example:8080\r\n\r\n".encode()
    return Redirector(plan, None)(head, ("192.0.2.1", 7)).decode().split("\r\n")


@pytest.mark.parametrize(
    ("line", "status", "rest", "event"),
    [
        ("GET /a?b", "301", "Location: https://x.example:8443/a?b", "redirected"),
        ("POST /", "308", "Location: https://x.example:8443/", "redirected"),
        (f"GET {_CHALLENGE}token", "200", "proof", "challenge"),
        (f"HEAD {_CHALLENGE}token", "200", "Content-Length: 5", "challenge"),
        (f"POST {_CHALLENGE}token", "308", None, "redirected"),
        (f"GET {_CHALLENGE}other", "301", None, "redirected"),
        (f"GET {_CHALLENGE}../token", "301", None, "redirected"),
        (f"GET {_CHALLENGE}{'x' * 300}", "301", None, "redirected"),
        ("GET *", "400", "400: Bad Request", "refused"),
        ("\x16\x03\x01", "400", None, "refused"),
    ],
)
def test_answers(line: str, status: str, rest: str | None, event: str) -> None:
    """Each is counted by its kind."""
    before = counters()
    lines = _ask(line)
    assert lines[0].split(" ")[1] == status
    assert rest is None or rest in lines
    assert "Connection: close" in lines
    assert lines[-1] == ("" if line.startswith("HEAD") or status[0] == "3" else lines[-1])
    changed = {name for name, number in counters().items() if number != before[name]}
    assert changed == {f"plain_{event}"}


def test_log(tmp_path: Path) -> None:
    """Each request is a line, also one that is none."""
    log = AccessLog(LogFile(str(tmp_path / "log")), JSON)
    answer = Redirector(PlainHttp(), log)
    answer(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", ("::ffff:192.0.2.1", 7, 0, 0))
    assert answer(b"", ("192.0.2.2", 8)).startswith(b"HTTP/1.1 431 ")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    for line in lines:
        del line["time"]
    assert lines == [
        {
            "event": "plain",
            "client": "192.0.2.1",
            "port": 7,
            "method": "GET",
            "target": "/",
            "status": 301,
        },
        {"event": "plain", "client": "192.0.2.2", "port": 8, "status": 431},
    ]
