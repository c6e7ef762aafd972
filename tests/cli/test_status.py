"""Tests of the verb status."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused
from tests.cli.harness import COMMAND, ENVIRONMENT, finish, read_line, run, start
from tests.cli.surveys import SEEN
from tests.doubles import KERNEL, RELAY, Lab, until
from tests.status.test_entries import ENTRY
from tests.strangers import UID, only_root, saying, stranger
from tlsify import __version__
from tlsify.cli import status
from tlsify.cli.parser import GlobalOptions, verb_parser
from tlsify.cli.report import terminal
from tlsify.errors import ExitCode
from tlsify.status import census, roster, sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.status.sockets import Survey


def _columns(line: str) -> list[str]:
    return re.split(r" {2,}", line)


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
    assert finish(process) == (128 + signal.SIGPIPE, b"", "")


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


def test_width(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal gets the columns that fit, unless all are wanted, and a pipe gets all."""
    monkeypatch.setattr(status, "survey", lambda **_: SEEN)

    def widest(*words: str) -> int:
        status.run(verb_parser("status").parse_args(words), GlobalOptions())
        return max(map(len, capsys.readouterr().out.splitlines()[-3:]))

    assert widest() > 80
    with monkeypatch.context() as patch:
        patch.setattr(terminal, "width", lambda: 80)
        assert widest("--wide") > 80 >= widest()


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
        (["--watch", "--prometheus"], "exclude each other"),
        (["--watch", "0"], '"0" is not a number of seconds above 0'),
        (["--watch", "-1"], "-1"),
        (["--watch", "nan"], '"nan"'),
        (["--watch", "1e300"], "1e300"),
        (["443"], "443"),
    ],
)
def test_misuse(words: list[str], word: str) -> None:
    """What makes no sense gives 100."""
    refused("status", *words).failed(100, word, "--help")


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

    def survey(**_: object) -> Survey:
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


def test_connections_of_tlsify(lab: Lab) -> None:
    """A relayed connection is shown in each form, with what its process says of it."""
    ours, _ = lab.pair(RELAY)
    folder = tempfile.mkdtemp(prefix="tlsify-")
    environment = ENVIRONMENT | {census.VARIABLE: folder}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        patch.setenv(census.VARIABLE, folder)
        stack.enter_context(roster.publish())
        stack.enter_context(roster.listed(ours))
        report = json.loads(run("status", "--json", "--devices", env=environment).succeeded())
        (seen,) = (each for each in report["sockets"] if each["tlsify"] is not None)
        assert [one["pid"] for one in seen["processes"]] == [os.getpid()]
        assert seen["tlsify"]["reason"] == "policy-off"
        assert seen["tlsify"]["suite"] == ours.negotiated.suite.name
        assert seen["tlsify"]["sandbox"] == {"landlock": 0, "seccomp": False}
        assert (seen["tx"], seen["rx"], seen["uid"]) == ("relay", "relay", os.getuid())
        assert isinstance(report["devices"], list)
        table = run("status", "--wide", env=environment).succeeded().decode()
        assert "relayed 1 (policy-off): " in table
        (row,) = (line for line in table.splitlines() if line.endswith("policy-off"))
        assert f"({os.getpid()})" in row
        metrics = run("status", "--prometheus", env=environment).succeeded().decode()
        assert 'tlsify_sockets_relayed{reason="policy-off"} 1\n' in metrics


@only_root
@pytest.mark.parametrize("form", [["--wide"], ["--json"], ["--prometheus"]])
@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"age": float("inf")},
        {"age": float("nan")},
        {"age": -1.0},
        {"age": 10**399},
        {"records_sent": 10**399, "records_received": 0},
        {"updates_sent": True, "updates_received": True},
        {"server_name": "x" * 10_000_000},
        {"server_name": "\ud800\x1b[2J\u202e\n"},
        {"alpn": [[[[]]]]},
    ],
    ids=lambda odd: "-".join(odd) or "sound",
)
def test_stranger(odd: dict[str, object], form: list[str]) -> None:
    """Whatever a stranger says of his connection, root gets a report, and what is left out."""
    with stranger(saying(ENTRY, **odd)) as (local, _, _):
        environment = ENVIRONMENT | {census.VARIABLE: os.environ[census.VARIABLE]}
        report = run("status", *form, env=environment).succeeded().decode()
    is_sound = not odd or str(odd.get("server_name")).startswith("\ud800")
    if form == ["--json"]:
        read = json.loads(report, parse_constant=pytest.fail)
        assert [each["code"] for each in read["unseen"]] == ([] if is_sound else ["answers"])
        told = [each for each in read["sockets"] if each["local"]["port"] == local[1]]
        assert [each["uid"] for each in told] == ([UID] if is_sound else [])
    elif form == ["--prometheus"]:
        assert f"tlsify_sockets_incomplete {int(not is_sound)}\n" in report
        assert ("\ntlsify_sockets_own{" in report) is is_sound
    else:
        assert (f":{local[1]} " in report) is is_sound
        assert (
            f"parts of the answers of processes of {sockets._user(UID)}: too long" in report
        ) is not is_sound
        assert all(line.isprintable() and len(line) < 500 for line in report.splitlines())


def _network(pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def test_another_namespace() -> None:
    """What is listed is there and not here, by the PID of a process that is there."""
    with subprocess.Popen(
        ["unshare", "-n", "cat"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        here = _network("self")
        until(lambda: process.poll() is not None or _network(process.pid) != here)
        if process.poll() is not None:
            pytest.skip("no network namespace can be made here")
        report = json.loads(run("status", "--netns", process.pid, "--json").succeeded())
        process.communicate()
    assert report["sockets"] == []


@pytest.mark.parametrize("name", ["nonexistent", "../self", "\xe9", "4194305", ""])
def test_no_such_namespace(name: str) -> None:
    """A namespace that is not there is named."""
    refused("status", "--netns", name).failed(ExitCode.CONFIG, "network namespace", "ip netns")


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
