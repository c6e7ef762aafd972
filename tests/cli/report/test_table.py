"""Tests of table."""

from __future__ import annotations

import dataclasses
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.surveys import BARE, BUSY, NOTHING, OFFLOADED, OWN, RELAYED, SEEN
from tlsify.cli.report import table
from tlsify.connection.handoff import Reason
from tlsify.status.holders import Process
from tlsify.status.sockets import Survey, Unseen
from tlsify.system.sandbox import Restraint

_HEAD = [
    "PROCESS",
    "USER",
    "LOCAL",
    "PEER",
    "VERSION",
    "CIPHER",
    "TX",
    "RX",
    "SENT",
    "RECEIVED",
    "IDLE",
]


def _columns(line: str) -> list[str]:
    return re.split(r" {2,}", line)


# -- the table


def test_table() -> None:
    """Totals, what is hidden, and a line for each socket."""
    totals, counters, hidden, blank, head, busy, bare = table.lines(SEEN)
    assert totals == "2 connections: RX by kernel 1, TX by device 1"
    assert counters == "counters: TlsCurrTxDevice 1 TlsTxDevice 9"
    assert hidden == "not shown: the processes of 1 of the sockets; run it as root"
    assert blank == ""
    assert _columns(head) == _HEAD
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
    line = table.lines(dataclasses.replace(SEEN, sockets=(closed,)))[-1]
    assert _columns(line)[0] == "-"


def test_empty_table() -> None:
    """With the module and without a connection there are the totals, and the head alone."""
    empty = Survey(available=True, sockets=(), counters={"TlsTxSw": 0}, unseen=())
    totals, counters, blank, head = table.lines(empty)
    assert (totals, counters, blank) == ("0 connections", "counters: all are 0", "")
    assert _columns(head)[0] == "PROCESS"


def test_odd_names() -> None:
    """Whatever a process calls itself is one line of text."""
    odd = BUSY._replace(processes=(Process(1, "\x1b[2J\nx\u202e"),), user="a\rb")
    line = table.lines(dataclasses.replace(SEEN, sockets=(odd,)))[-1]
    assert line.startswith("\\x1b[2J\\nx\\u202e (1)  a\\rb  ")
    assert line.isprintable()


def test_own_connections() -> None:
    """What tlsify knows stands in columns of its own; those who do not ask for all get the most."""
    totals, _, why, device, _, head, *rows = table.lines(OWN)
    assert totals == "3 connections: RX by kernel 2, TX by device 1, TX by kernel 1, relayed 1"
    assert why == "relayed 1 (no-tls-ulp): this kernel has no tls ULP; boot another one"
    assert device == "device eth0: tls-hw-tx-offload on, tls-hw-rx-offload off"
    assert _columns(head) == [
        *("PROCESS", "USER", "LOCAL", "PEER", "NAME", "ALPN", "VERSION", "CIPHER", "TX", "RX"),
        *("SENT", "RECEIVED", "IDLE", "AGE", "REASON"),
    ]
    foreign, offloaded, relayed = map(_columns, rows)
    assert foreign[4:6] == ["-", "-"]
    assert offloaded[4:6] == ["example.org", "h2"]
    assert (foreign[-2:], offloaded[-2:]) == (["-", "-"], ["1h", "-"])
    assert relayed[8:10] == ["relay", "relay"]
    assert relayed[-2:] == ["0.5s", "no-tls-ulp"]


def test_wide() -> None:
    """All columns, for who asks for them."""
    head, *rows = table.lines(OWN, wide=True)[-4:]
    assert _columns(head)[14:] == [*("GROUP", "RESUMED", "REKEYS", "RECORDS", "SANDBOX", "REASON")]
    assert _columns(rows[1])[14:] == [
        *("X25519MLKEM768", "yes", "2/1", "12/7", "landlock 7, seccomp", "-")
    ]
    assert _columns(rows[2])[14:] == ["-", "no", "-", "-", "no", "no-tls-ulp"]


@pytest.mark.parametrize(
    ("restraint", "told"),
    [
        (None, "-"),
        (Restraint(), "no"),
        (Restraint(landlock=2), "landlock 2"),
        (Restraint(seccomp=True), "seccomp"),
        (Restraint(8, seccomp=True), "landlock 8, seccomp"),
    ],
)
def test_sandbox(restraint: Restraint | None, told: str) -> None:
    """What a process has given up, as far as it tells."""
    seen = dataclasses.replace(OWN, sockets=(RELAYED._replace(restraint=restraint),))
    assert _columns(list(table.lines(seen, wide=True))[-1])[-2] == told


def test_relayed_without_the_module() -> None:
    """Where there is no kTLS the relayed connections are there all the same."""
    only = dataclasses.replace(OWN, available=False, sockets=(RELAYED,), counters={}, devices=())
    totals, why, device, blank, head, row = table.lines(only)
    assert totals == "1 connection: relayed 1"
    assert why.startswith("relayed 1 (no-tls-ulp)")
    assert device == "device: no network interface can protect records"
    assert blank == ""
    assert head.startswith("PROCESS")
    assert row.startswith("tlsify (20)")
    unseen = dataclasses.replace(NOTHING, unseen=(Unseen("users", "others", "be root"),))
    first, second = table.lines(unseen)
    assert "not loaded" in first
    assert second == "not shown: others; be root"


def test_reason_without_a_hint() -> None:
    """Nothing can be done about some reasons."""
    assert RELAYED.entry is not None
    entry = RELAYED.entry._replace(reason=Reason("odd", "\x1b odd", None))
    seen = dataclasses.replace(OWN, sockets=(RELAYED._replace(entry=entry),))
    assert table.lines(seen)[2] == "relayed 1 (odd): \\x1b odd"


def test_many_reasons() -> None:
    """Who makes up reasons does not push the table off the screen."""
    assert RELAYED.entry is not None
    told = [RELAYED, RELAYED]
    for number in range(100):
        reason = Reason(f"odd-{number}", "odd", None)
        told.append(RELAYED._replace(entry=RELAYED.entry._replace(reason=reason)))
    shown = table.lines(dataclasses.replace(OWN, sockets=tuple(told), devices=None))
    why = [line for line in shown if line.startswith("relayed ")]
    assert len(why) == 17
    assert why[0].startswith("relayed 2 (no-tls-ulp)")
    assert why[-1] == "relayed 85: for 85 more reasons"


@given(st.text(), st.text(), st.text(), st.text())
def test_names_of_the_peers_choice(name: str, alpn: str, group: str, code: str) -> None:
    """Whatever peers call themselves, a row is one printable line, and not a long one."""
    assert RELAYED.entry is not None
    entry = RELAYED.entry._replace(
        server_name=name, alpn=alpn, group=group, reason=Reason(code, code, code)
    )
    seen = dataclasses.replace(OWN, sockets=(RELAYED._replace(entry=entry),))
    shown = table.lines(seen, wide=True)
    assert all(line.isprintable() for line in shown)
    assert len(shown[-1]) < 320


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 250])
def test_narrow_terminal(width: int) -> None:
    """Columns are left out until the rest fits; the last ones stay, whatever the width."""
    rates = {each.identity: (1.0, 2.0) for each in OWN.sockets}
    head, *rows = table.lines(OWN, rates, width=width)[-4:]
    fits = max(map(len, (head, *rows))) <= width
    assert fits or _columns(head) == ["PROCESS", "PEER", "TX", "SENT/s"]
    assert {"PROCESS", "PEER", "TX", "SENT/s"} <= set(_columns(head))
    assert (width >= 80) <= fits
    everything = table.lines(OWN, rates)[-4:]
    assert (width == 250) is ([head, *rows] == everything)


def test_rates() -> None:
    """The busiest come first, and the sums stand above."""
    rates = {OFFLOADED.identity: (4096.0, 100.0), BUSY.identity: (0.0, 0.0)}
    totals, *_, head, first, second, third = table.lines(OWN, rates)
    assert totals.endswith("; 4.0K/s sent, 100/s received")
    at = _columns(head).index("SENT/s")
    assert _columns(first)[at : at + 2] == ["4.0K", "100"]
    assert _columns(second)[at : at + 2] == ["0", "0"]
    assert third.endswith("no-tls-ulp")
    head = table.lines(SEEN, {})[-3]
    assert _columns(head)[-3:] == ["SENT/s", "RECEIVED/s", "IDLE"]


@given(st.floats(0, 2**64))
def test_amounts(number: float) -> None:
    """An amount takes five characters at most, and is right within its precision."""
    text = table._amount(number)
    assert len(text) <= 5
    digits, unit = text.rstrip("KMGTPE"), text.lstrip("0123456789.")
    scale = 1024 ** table._UNITS.index(unit)
    assert abs(float(digits) * scale - number) <= scale / 2 * 1.01


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0K"), (10189, "10K"), (1048575, "1.0M"), (2**20, "1.0M")],
)
def test_some_amounts(number: int, text: str) -> None:
    """Units are those of 1024."""
    assert table._amount(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0.0s"), (59.94, "59.9s"), (60, "1m"), (3599, "59m"), (360000, "100h")]
)
def test_durations(number: float, text: str) -> None:
    """Seconds, minutes or hours."""
    assert table._duration(number) == text


def test_frame() -> None:
    """What does not fit is cut, and how much of it is said."""
    size = os.terminal_size((10, 3))
    assert table.frame(["a" * 11, "b"], size) == f"\x1b[H{'a' * 10}\x1b[K\r\nb\x1b[K\x1b[J"
    cut = table.frame(["1", "2", "3", "4"], size)
    assert cut == "\x1b[H1\x1b[K\r\n2\x1b[K\r\n... 2 more\x1b[K\x1b[J"
