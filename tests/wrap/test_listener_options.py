"""Tests of listener_options: a program's connections have what its listening socket has."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.wrap.test_steering import bound
from tests.wrap.wrapped import CARRIERS, Wrapped, needs_seccomp, read_all
from tlsify.wrap import listener_options
from tlsify.wrap.listener_options import OPTIONS, Inheritance
from tlsify.wrap.steering import Group

if TYPE_CHECKING:
    from tests.cli.conftest import Pki

_HALF_A_MINUTE = struct.pack("@ll", 30, 0)
# A value for each option that no socket has by itself.
_VALUES: dict[str, int | bytes] = {
    "SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 33, "TCP_KEEPINTVL": 12, "TCP_KEEPCNT": 3,
    "TCP_NODELAY": 1, "TCP_CORK": 1, "TCP_USER_TIMEOUT": 5000, "TCP_NOTSENT_LOWAT": 7000,
    "TCP_CONGESTION": b"reno", "TCP_LINGER2": 17, "TCP_WINDOW_CLAMP": 40_000,
    "TCP_THIN_LINEAR_TIMEOUTS": 1, "TCP_MAXSEG": 700, "TCP_DEFER_ACCEPT": 5,
    "SO_SNDBUF": 50_000, "SO_RCVBUF": 50_000, "SO_RCVTIMEO": _HALF_A_MINUTE,
    "SO_SNDTIMEO": _HALF_A_MINUTE, "SO_RCVLOWAT": 2, "SO_LINGER": struct.pack("@ii", 1, 7),
    "SO_OOBINLINE": 1, "SO_MARK": 5, "SO_DONTROUTE": 1, "SO_BUSY_POLL": 20,
    "SO_MAX_PACING_RATE": 10**6, "SO_ZEROCOPY": 1, "IP_TOS": 0x10, "IP_TTL": 77,
    "IP_MTU_DISCOVER": 0, "IP_FREEBIND": 1, "IP_TRANSPARENT": 1, "IPV6_TCLASS": 0x10,
    "IPV6_UNICAST_HOPS": 77, "IPV6_MTU_DISCOVER": 0,
}  # fmt: skip
_OF_PROGRAM = {
    "TCP_NODELAY", "SO_KEEPALIVE", "TCP_KEEPIDLE", "SO_RCVTIMEO", "SO_SNDBUF", "SO_RCVBUF",
    "IP_TOS", "SO_RCVLOWAT", "TCP_CONGESTION", "SO_LINGER",
}  # fmt: skip
_FOR_ROOT = {"SO_MARK", "SO_BUSY_POLL", "IP_TRANSPARENT"}


def _read(sock: socket.socket) -> dict[str, bytes]:
    found = {}
    for each in OPTIONS:
        try:
            found[each.name] = sock.getsockopt(each.level, each.number, 16)
        except OSError:
            continue
    return found


@pytest.mark.own_kernel
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_all_options(host: str) -> None:
    """What a program would have accepted, and what it is given, have the same, all of it.

    The kernel decides what a listening socket bequeaths.
    """
    with bound(host) as native, bound(host) as theirs:
        usual = _read(native)
        for each in OPTIONS:
            if each.name in usual.keys() - (_FOR_ROOT if os.geteuid() else ()):
                for sock in (native, theirs):
                    sock.setsockopt(each.level, each.number, _VALUES[each.name])
                assert _read(native)[each.name] != usual[each.name]
        native.listen()
        group = Group(theirs, 1)
        with group.ours as ours:
            ours.settimeout(60)
            expected, given = (_connect(each) for each in (native, ours))
            with given, expected:
                group.inheritance.pass_on(theirs, given)
                assert _read(given) == _read(expected)


def _connect(listener: socket.socket) -> socket.socket:
    with socket.create_connection(listener.getsockname()[:2], 60) as client:
        client.sendall(b"x")
        return listener.accept()[0]


@needs_seccomp
@CARRIERS
def test_program(pki: Pki, carrier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sets before it listens, afterwards, and between two clients, each client has."""
    monkeypatch.setattr(listener_options, "_PAUSE", 0.0)
    source = f"""
options = {[(each.level, each.number) for each in OPTIONS if each.name in _OF_PROGRAM]}
values = {[_VALUES[each.name] for each in OPTIONS if each.name in _OF_PROGRAM]}
def give(number):
    listener.setsockopt(*options[number], values[number])
listener = socket.socket()
give(0)
listener.bind(("127.0.0.1", 0))
listener.listen()
give(1)
print(listener.getsockname()[1], flush=True)
for number in range(1, len(options)):
    give(number)
    sock, _ = listener.accept()
    for each in options[:number + 1]:
        if sock.getsockopt(*each, 16) != listener.getsockopt(*each, 16):
            sock.sendall(b"%d %d" % each)
    sock.close()
"""
    with Wrapped(pki, carrier, source) as program:
        for _ in range(len(_OF_PROGRAM) - 1):
            with program.connect() as client:
                assert read_all(client) == b""
        assert program.end() == 0


def test_values_that_go_back() -> None:
    """Our socket loses what the program's has lost, but not its own keepalive."""
    with bound("127.0.0.1") as theirs:
        group = Group(theirs, 1)
        with group.ours as ours:
            for value in (1, 0):
                theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, value)
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, value)
                group.inheritance.look(theirs)
                assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == value
                assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.own_kernel
def test_mptcp() -> None:
    """A socket of MPTCP, as Go's servers have, has what it can have on this kernel."""
    try:
        theirs = socket.socket(proto=262)
    except OSError:
        pytest.skip("no MPTCP here")
    with theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        theirs.bind(("127.0.0.1", 0))
        with Group(theirs, 1).ours as ours:
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_address_that_is_not_there() -> None:
    """A program may listen at one that this host has not got yet; so does our socket."""
    with socket.socket() as theirs:
        theirs.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
        theirs.bind(("192.0.2.1", 0))
        with Group(theirs, 1).ours as ours:
            assert ours.getsockname() == theirs.getsockname()


def test_option_that_cannot_be_set(caplog: pytest.LogCaptureFixture) -> None:
    """It is told, once; the others are there all the same."""
    with bound("127.0.0.1") as theirs, socket.socket(socket.AF_UNIX) as given:
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _HALF_A_MINUTE)
        inheritance = Inheritance()
        for _ in range(2):
            inheritance.pass_on(theirs, given)
        assert given.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == _HALF_A_MINUTE
    (said,) = (each.message for each in caplog.records)
    assert said.startswith("connections do not inherit TCP_NODELAY from the program's socket: EN")


def test_documentation() -> None:
    """It names all of them."""
    page = (Path(__file__).parents[2] / "docs/wrap.md").read_text(encoding="utf-8")
    assert not [each.name for each in OPTIONS if f"`{each.name}`" not in page]
