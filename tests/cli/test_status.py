"""Tests of the verb status."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.harness import COMMAND, ENVIRONMENT, finish, read_line, run, start
from tests.doubles import KERNEL, Lab
from tlsify import __version__
from tlsify.cli import GlobalOptions, status
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.errors import ExitCode
from tlsify.ktls.diag import Traffic
from tlsify.sockets import KtlsSocket, Process, Survey, Unseen

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = KtlsSocket(
    local=("192.0.2.1", 443),
    peer=("192.0.2.7", 50000),
    inode=5,
    uid=33,
    user="www-data",
    processes=(Process(17, "nginx"), Process(18, "nginx")),
    version=ProtocolVersion.TLSv1_3,
    cipher=Aead.AES_GCM_256,
    tx="device",
    rx="kernel",
    traffic=Traffic(sent=3_500_000, acknowledged=3_400_000, received=900, idle=0.25),
)
# What is unknown, hidden, or not there.
BARE = KtlsSocket(
    local=("2001:db8::1", 443),
    peer=("2001:db8::7", 50001),
    inode=6,
    uid=0,
    user="root",
    processes=(),
    version=None,
    cipher=None,
    tx="none",
    rx="none",
    traffic=None,
)
COUNTERS = {"TlsCurrTxSw": 0, "TlsCurrTxDevice": 1, "TlsTxDevice": 9, "TlsDecryptError": 0}
HIDDEN = Unseen("processes", "who holds 1 of the sockets", "run it as root")
SEEN = Survey(available=True, sockets=(BUSY, BARE), counters=COUNTERS, unseen=(HIDDEN,))
_SOCKET_KEYS = [
    "processes",
    "uid",
    "user",
    "local",
    "peer",
    "inode",
    "version",
    "cipher",
    "tx",
    "rx",
    "bytes_sent",
    "bytes_acknowledged",
    "bytes_received",
    "idle_seconds",
]
_METRIC = re.compile(r'(\w+)(?:\{((?:\w+="[^"]*",?)+)\})? (\d+)')


def _say(seen: Survey, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Run the verb where there is this to see."""
    monkeypatch.setattr(status, "survey", lambda **_: seen)
    parser = argparse.ArgumentParser()
    status.add_arguments(parser)
    assert status.run(parser.parse_args(words), GlobalOptions()) is ExitCode.OK


def _columns(line: str) -> list[str]:
    return re.split(r" {2,}", line)


# -- the table


def test_table() -> None:
    """Totals, what is hidden, and a line for each socket."""
    totals, counters, hidden, blank, head, busy, bare = status._table(SEEN)
    assert totals == "2 connections: RX by kernel 1, TX by device 1"
    assert counters == "counters: TlsCurrTxDevice 1 TlsTxDevice 9"
    assert hidden == "not shown: who holds 1 of the sockets; run it as root"
    assert blank == ""
    assert _columns(head) == [*status._HEAD, "IDLE"]
    assert " ".join(_columns(busy)) == (
        "nginx (17) +1 www-data 192.0.2.1:443 192.0.2.7:50000 TLSv1.3 AES_GCM_256 device kernel "
        "3.3M 900 0.2s"
    )
    assert _columns(bare) == [
        *("?", "root", "[2001:db8::1]:443", "[2001:db8::7]:50001", "-", "-", "none", "none"),
        *("?", "?", "?"),
    ]


def test_closed_socket() -> None:
    """That nobody holds a socket any more is no secret."""
    closed = BARE._replace(inode=0)
    line = status._table(dataclasses.replace(SEEN, sockets=(closed,)))[-1]
    assert _columns(line)[0] == "-"


def test_empty_table() -> None:
    """With the module and without a connection there are the totals, and the head alone."""
    empty = Survey(available=True, sockets=(), counters={"TlsTxSw": 0}, unseen=())
    totals, counters, blank, head = status._table(empty)
    assert (totals, counters, blank) == ("0 connections", "counters: all are 0", "")
    assert _columns(head)[0] == "PROCESS"


def test_odd_names() -> None:
    """Whatever a process calls itself is one line of text."""
    odd = BUSY._replace(processes=(Process(1, "\x1b[2J\nx\u202e"),), user="a\rb")
    line = status._table(dataclasses.replace(SEEN, sockets=(odd,)))[-1]
    assert line.startswith("\\x1b[2J\\nx\\u202e (1)  a\\rb  ")
    assert line.isprintable()


@given(st.floats(0, 2**64))
def test_amounts(number: float) -> None:
    """An amount takes five characters at most, and is right within its precision."""
    text = status._amount(number)
    assert len(text) <= 5
    digits, unit = text.rstrip("KMGTPE"), text.lstrip("0123456789.")
    scale = 1024 ** status._UNITS.index(unit)
    assert abs(float(digits) * scale - number) <= scale / 2 * 1.01


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0K"), (10189, "10K"), (1048575, "1.0M"), (2**20, "1.0M")],
)
def test_some_amounts(number: int, text: str) -> None:
    """Units are those of 1024."""
    assert status._amount(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0.0s"), (59.94, "59.9s"), (60, "1m"), (3599, "59m"), (360000, "100h")]
)
def test_durations(number: float, text: str) -> None:
    """Seconds, minutes or hours."""
    assert status._duration(number) == text


# -- for programs


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The documented keys, and no others, on one line."""
    _say(SEEN, monkeypatch, "--json")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    report = json.loads(printed)
    assert list(report) == ["tlsify", "available", "sockets", "counters", "unseen"]
    assert (report["tlsify"], report["available"]) == (__version__, True)
    assert report["counters"] == COUNTERS
    assert report["unseen"] == [dataclasses.asdict(HIDDEN)]
    busy, bare = report["sockets"]
    assert list(busy) == list(bare) == _SOCKET_KEYS
    assert busy["processes"] == [{"pid": 17, "command": "nginx"}, {"pid": 18, "command": "nginx"}]
    assert busy["peer"] == {"address": "192.0.2.7", "port": 50000}
    assert (busy["version"], busy["cipher"], busy["tx"]) == ("TLSv1.3", "AES_GCM_256", "device")
    assert (busy["bytes_acknowledged"], busy["idle_seconds"]) == (3_400_000, 0.25)
    assert [key for key, value in bare.items() if value is None] == [
        *("version", "cipher", "bytes_sent", "bytes_acknowledged", "bytes_received"),
        "idle_seconds",
    ]


def test_prometheus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each family has its type, and each line is one that Prometheus reads."""
    twin = BUSY._replace(inode=7)
    _say(dataclasses.replace(SEEN, sockets=(BUSY, BARE, twin)), monkeypatch, "--prometheus")
    found, types = {}, {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = _METRIC.fullmatch(line)
            assert match is not None, line
            assert match[1] in types
            found[match[1], match[2]] = int(match[3])
    assert types == {
        "tlsify_ktls_available": "gauge",
        "tlsify_sockets_hidden": "gauge",
        "tlsify_sockets": "gauge",
        "tlsify_tls_stat_current": "gauge",
        "tlsify_tls_stat": "counter",
    }
    assert found == {
        ("tlsify_ktls_available", None): 1,
        ("tlsify_sockets_hidden", None): 1,
        ("tlsify_sockets", 'tx="device",rx="kernel",version="TLSv1.3",cipher="AES_GCM_256"'): 2,
        ("tlsify_sockets", 'tx="none",rx="none",version="none",cipher="none"'): 1,
        ("tlsify_tls_stat_current", 'counter="TlsCurrTxSw"'): 0,
        ("tlsify_tls_stat_current", 'counter="TlsCurrTxDevice"'): 1,
        ("tlsify_tls_stat", 'counter="TlsTxDevice"'): 9,
        ("tlsify_tls_stat", 'counter="TlsDecryptError"'): 0,
    }


# -- watching


def _later(each: KtlsSocket, sent: int, received: int) -> KtlsSocket:
    assert each.traffic is not None
    carried = (each.traffic.sent + sent, each.traffic.received + received)
    traffic = each.traffic._replace(sent=carried[0], received=carried[1])
    return each._replace(traffic=traffic)


def test_rates() -> None:
    """Bytes a second between two looks; none for what was not there, or cannot be known."""
    idle = BUSY._replace(inode=8, local=("192.0.2.1", 1))
    new = BUSY._replace(inode=9)
    before = dataclasses.replace(SEEN, sockets=(idle, BUSY, BARE))
    now = dataclasses.replace(SEEN, sockets=(idle, _later(BUSY, 4096, 100), BARE, new))
    rates = status._rates(before, now, 2.0)
    assert rates == {
        status._identity(BUSY): (2048, 50),
        status._identity(idle): (0, 0),
    }
    lines = [_columns(line) for line in status._table(now, rates)[-5:]]
    assert lines[0][-3:] == ["SENT/s", "RECEIVED/s", "IDLE"]
    assert lines[1][-3:] == ["2.0K", "50", "0.2s"]  # the busiest first
    assert lines[2][2] == "192.0.2.1:1"
    busy, bare = (json.loads(status._json(now, rates))["sockets"][at] for at in (1, 2))
    assert (busy["sent_per_second"], busy["received_per_second"]) == (2048, 50)
    assert (bare["sent_per_second"], bare["received_per_second"]) == (None, None)
    assert status._rates(None, now, 2.0) == {}


def test_frame() -> None:
    """What does not fit is cut, and how much of it is said."""
    size = os.terminal_size((10, 3))
    assert status._frame(["a" * 11, "b"], size) == f"\x1b[H{'a' * 10}\x1b[K\r\nb\x1b[K\x1b[J"
    cut = status._frame(["1", "2", "3", "4"], size)
    assert cut == "\x1b[H1\x1b[K\r\n2\x1b[K\r\n... 2 more\x1b[K\x1b[J"


def test_watch_into_a_pipe() -> None:
    """Into a pipe goes plain text; Ctrl-C ends it with 130 and without a word."""
    process = start("status", "--watch", "0.01")
    lines = [read_line(process.stdout) for _ in range(20)]
    assert len(lines) == 20
    assert "\x1b" not in "".join(lines)
    process.send_signal(signal.SIGINT)
    outcome = finish(process)
    assert (outcome.status, outcome.err) == (130, "")


def test_watch_as_json() -> None:
    """Each line is an object by itself."""
    process = start("status", "--watch=0.01", "--json")
    reports = [json.loads(read_line(process.stdout)) for _ in range(3)]
    assert all(report["tlsify"] == __version__ for report in reports)
    process.send_signal(signal.SIGINT)
    assert finish(process).status == 130


def test_watch_until_the_reader_is_gone() -> None:
    """A reader that has had enough is told of as elsewhere."""
    process = start("status", "--watch", "0.01")
    read_line(process.stdout)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    finish(process).failed(111, "stdout: EPIPE")


def _from_terminal(master: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(master, 4096)
        except OSError:  # EIO: the other end is closed
            return


def test_watch_on_a_terminal() -> None:
    """On a terminal the table is redrawn in place, and what follows stands below it."""
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in {"COLUMNS", "LINES"}}
    with os.fdopen(master, "rb", 0):
        process = subprocess.Popen(
            [*COMMAND, "status", "--watch", "0.01"],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            env=environment,
        )
        os.close(terminal)
        shown, asked = b"", False
        for data in _from_terminal(master):
            shown += data
            if not asked and shown.count(b"\x1b[H") >= 3:
                process.send_signal(signal.SIGINT)
                asked = True
        outcome = finish(process)
    assert (outcome.status, outcome.err) == (130, "")
    frames = shown.split(b"\x1b[H")
    assert len(frames) >= 4
    assert all(frame.rstrip(b"\r\n").endswith(b"\x1b[J") for frame in frames[1:])
    assert shown.endswith(b"\r\n")
    lines = re.sub(rb"\x1b\[[HKJ]", b"", frames[1]).splitlines()
    assert all(len(line) <= 60 for line in lines)


# -- the command


@pytest.mark.usefixtures("lacks_ktls")
def test_without_ktls() -> None:
    """Without kTLS that is what is said, in one line, and it is no failure."""
    outcome = run("status")
    assert outcome.succeeded().count(b"\n") == 1
    assert b"the tls module is not loaded" in outcome.out
    report = json.loads(run("status", "--json").succeeded())
    assert (report["available"], report["sockets"], report["counters"]) == (False, [], {})
    assert b"tlsify_ktls_available 0\n" in run("status", "--prometheus").succeeded()


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--json", "--prometheus"], "not allowed with"),
        (["--watch", "--prometheus"], "--watch does not go"),
        (["--watch", "0"], "'0'"),
        (["--watch", "-1"], "-1"),
        (["--watch", "nan"], "'nan'"),
        (["--watch", "1e300"], "1e300"),
        (["443"], "443"),
    ],
)
def test_misuse(words: list[str], word: str) -> None:
    """What makes no sense gives 100."""
    run("status", *words).failed(100, word, "--help")


def test_no_sock_diag(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel refuses is the command's to report."""

    def refuse(**_: object) -> Survey:
        raise PermissionError(13, "sock_diag")

    monkeypatch.setattr(status, "survey", refuse)
    parser = argparse.ArgumentParser()
    status.add_arguments(parser)
    with pytest.raises(PermissionError):
        status.run(parser.parse_args([]), GlobalOptions())


def test_no_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stdout there is nothing to redraw, and nothing to complain of."""
    looks = iter([SEEN, SEEN])

    def survey() -> Survey:
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(status, "survey", survey)
    monkeypatch.setattr(sys, "stdout", None)
    parser = argparse.ArgumentParser()
    status.add_arguments(parser)
    with pytest.raises(KeyboardInterrupt):
        status.run(parser.parse_args(["--watch", "0.001"]), GlobalOptions())


@pytest.mark.ktls
def test_real_connection(lab: Lab) -> None:
    """Another process's connection is shown with its owner, keys and traffic."""
    ours, theirs = lab.pair(KERNEL)
    ours.sock.sendall(bytes(5000))
    assert theirs.sock.recv(5000, socket.MSG_WAITALL)
    local = dict(zip(("address", "port"), ours.sock.getsockname(), strict=True))
    report = json.loads(run("status", "--json").succeeded())
    (seen,) = (each for each in report["sockets"] if each["local"] == local)
    assert os.getpid() in [one["pid"] for one in seen["processes"]]
    assert (seen["uid"], seen["version"]) == (os.getuid(), "TLSv1.3")
    assert (seen["tx"], seen["rx"]) == ("kernel", "kernel")
    assert seen["bytes_sent"] > 5000
    table = run("status").succeeded().decode()
    rows = [_columns(line) for line in table.partition("PROCESS")[2].splitlines()]
    (row,) = (row for row in rows if row[2] == f"127.0.0.1:{local['port']}")
    assert f"({os.getpid()})" in row[0]
    assert row[4] == "TLSv1.3"
    assert row[6:8] == ["kernel", "kernel"]
    metrics = run("status", "--prometheus").succeeded().decode()
    assert 'tlsify_sockets{tx="kernel",rx="kernel",version="TLSv1.3"' in metrics
    assert "tlsify_ktls_available 1\n" in metrics
