"""Tests of messages: levels, prefixes, peers, floods; text that stays one line, and JSON."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tlsify.errors import ConfigError
from tlsify.logs import messages
from tlsify.logs.messages import JSON, LEVELS, NOTICE, TEXT, announce, peer, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_log = logging.getLogger("tlsify")
CLIENT = ("192.0.2.7", 50_000)


def install(level: int, form: str = TEXT, *, syslog: bool = False) -> None:
    """Set logging up as in a new process."""
    logging.getLogger().handlers.clear()
    messages.install(level, form, syslog=syslog)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@contextmanager
def into(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Redirect stderr to a file."""
    with path.open("w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        yield


def served(work: Callable[[], object]) -> None:
    """Do something while a client is being served."""

    def serve() -> None:
        peer.set(CLIENT)
        work()

    contextvars.copy_context().run(serve)


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Each message names the client that is served; nothing in it does more than show."""
    install(LEVELS["notice"])
    _log.info("too low")
    _log.log(NOTICE, "plain %s", "\x1b[2J\nforged: 1")
    served(lambda: _log.warning("about it"))
    served(lambda: _log.log(NOTICE, "ended: %s", ConnectionResetError(104, "Connection reset")))
    served(lambda: _log.warning("about another", extra={"peer": ("::1", 1, 0, 0)}))
    served(lambda: _log.warning("about none", extra={"peer": None}))
    assert capsys.readouterr().err.splitlines() == [
        "tlsify: plain \\x1b[2J\\nforged: 1",
        "tlsify: warning: 192.0.2.7:50000: about it",
        "tlsify: 192.0.2.7:50000: ended: ECONNRESET: Connection reset",
        "tlsify: warning: [::1]:1: about another",
        "tlsify: warning: about none",
    ]


def _fail() -> None:
    try:
        raise ValueError("evil\x1b]0;title\x07")
    except ValueError:
        _log.exception("bug")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each message is an object on a line, errors of the command and tracebacks too."""
    install(LEVELS["debug"], JSON)
    served(lambda: _log.debug("hello \n\x1b"))
    report("wrong", "do it right")
    announce("ready")
    _fail()
    printed = capsys.readouterr()
    assert printed.out == ""
    first, error, ready, bug = map(json.loads, printed.err.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "debug", "message": "hello \n\x1b", "client": "192.0.2.7", "port": 50_000,
    }  # fmt: skip
    assert (error["level"], error["message"], error["hint"]) == ("error", "wrong", "do it right")
    assert (ready["level"], ready["message"]) == ("notice", "ready")
    assert "evil" in bug["traceback"]
    assert printed.err.isascii()
    assert printed.err.replace("\n", "").isprintable()


def test_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line has its priority where stderr is the journal's, and only there."""
    path = tmp_path / "stderr"
    with into(path, monkeypatch):
        state = path.stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{state.st_dev}:{state.st_ino}")
        install(LEVELS["debug"])
        for level in LEVELS.values():
            _log.log(level, "x")
        _log.critical("x")
        report("wrong", "do it right")
        _fail()
    *lines, last = path.read_text().splitlines()
    assert lines[:8] == [
        *(f"<{number}>tlsify: x" for number in (7, 6, 5, 4, 3, 2)),
        "<3>tlsify: error: wrong",
        "<6>tlsify: hint: do it right",
    ]
    assert last == "<3>tlsify: ValueError: evil\\x1b]0;title\\x07"
    assert all(line.startswith("<") for line in lines)


def test_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages have their time there; errors are as scripts know them.

    Another process's journal is not ours.
    """
    path = tmp_path / "stderr"
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    with into(path, monkeypatch):
        install(LEVELS["notice"])
        _log.warning("x")
        report("wrong", "do it right")
    message, *lines = path.read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z tlsify: warning: x", message)
    assert lines == ["tlsify: error: wrong", "tlsify: hint: do it right"]


def test_flood(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients can fill no disk: beyond a number of their messages there is a count of them."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    install(LEVELS["notice"])

    def flood() -> None:
        for _ in range(150):
            _log.log(NOTICE, "connection refused")

    served(flood)
    served(lambda: _log.error("worse"))
    _log.warning("ours")
    assert len(capsys.readouterr().err.splitlines()) == 100 + 2
    now += 11
    served(lambda: _log.log(NOTICE, "another"))
    assert "another (50 such messages before it left out)" in capsys.readouterr().err
    install(LEVELS["info"])
    served(flood)
    assert len(capsys.readouterr().err.splitlines()) == 150


def test_announcement(capsys: pytest.CaptureFixture[str]) -> None:
    """A person reads on stdout that the server is ready, whatever the level."""
    install(LEVELS["error"], TEXT)
    announce("ready")
    assert capsys.readouterr() == ("tlsify: ready\n", "")


def test_announcement_without_a_reader(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server goes on without its stdout, now and at its end; a warning tells of it once."""
    install(LEVELS["warning"])
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        announce("ready")
        announce("ready again")
    told = "tlsify: warning: cannot write to stdout: EPIPE: Broken pipe\n"
    assert capsys.readouterr().err == told


def test_no_syslog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without one the command says so, rather than say nothing from then on."""
    monkeypatch.setattr(messages, "_SYSLOG", str(tmp_path / "log"))
    with pytest.raises(ConfigError, match="no syslog at"):
        install(NOTICE, syslog=True)
