"""Tests of steering: clients meet our socket, knocks the program's own."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import pytest

from tlsify.wrap.steering import Group, is_tcp, obstacle

ADDRESSES = ("127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1")
PATIENCE = 60.0


def bound(host: str, port: int = 0, *, reuse: bool = False) -> socket.socket:
    """Return a socket as a program makes it."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.settimeout(PATIENCE)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if reuse:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


def knock(group: Group, theirs: socket.socket) -> int:
    """Knock; return the port from which."""
    sock, address = group.source(theirs)
    with sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)
        port: int = sock.getsockname()[1]
        return port


def client(group: Group, host: str = "") -> int:
    """Connect as a client does; return the port from which."""
    _, (found, port) = group.place.to_knock()
    with socket.create_connection((host or found, port), PATIENCE) as sock:
        own: int = sock.getsockname()[1]
        return own


def came(sock: socket.socket) -> int:
    """Accept; return the port from which."""
    accepted, (_, port, *_) = sock.accept()
    accepted.close()
    found: int = port
    return found


@pytest.mark.parametrize("host", ADDRESSES)
def test_who_meets_whom(host: str) -> None:
    """Each client meets ours and each knock the program's, whatever the order."""
    with bound(host) as theirs:
        group = Group(theirs, 1)
        with group.ours as ours:
            ours.settimeout(PATIENCE)
            for _ in range(8):
                knocked, met = knock(group, theirs), client(group)
                assert came(theirs) == knocked
                assert came(ours) == met


def test_dual_stack() -> None:
    """A socket for both families takes clients of both, and is knocked at by IPv4."""
    with bound("::") as theirs:
        group = Group(theirs, 1)
        with group.ours as ours:
            ours.settimeout(PATIENCE)
            assert [client(group, host) for host in ("127.0.0.1", "::1")] == [
                came(ours) for _ in range(2)
            ]
            assert knock(group, theirs) == came(theirs)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_several_sockets(host: str) -> None:
    """A knock meets the socket that it is for, also when others have left."""
    with ExitStack() as stack:
        first = stack.enter_context(bound(host, reuse=True))
        group = Group(first, 1)
        ours = stack.enter_context(group.ours)
        ours.settimeout(PATIENCE)
        port = first.getsockname()[1]
        others = [stack.enter_context(bound(host, port, reuse=True)) for _ in range(3)]
        for each in others:
            group.join(each, 1)
        members = [first, *others]
        for _ in range(len(members) - 1):
            for member in members:
                knocked, met = knock(group, member), client(group)
                assert came(member) == knocked
                assert came(ours) == met
            group.leave(members.pop(0))


def test_already_listening() -> None:
    """A socket that the program has inherited, and that listens already, is joined as well."""
    with bound("127.0.0.1") as theirs:
        theirs.listen(1)
        group = Group(theirs, 1)
        with group.ours as ours:
            ours.settimeout(PATIENCE)
            knocked, met = knock(group, theirs), client(group)
            assert (came(theirs), came(ours)) == (knocked, met)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
def test_other_user() -> None:
    """A program that has dropped its privileges keeps its address, and shares it."""
    os.seteuid(65534)
    try:
        theirs = bound("127.0.0.1")
    finally:
        os.seteuid(0)
    with theirs:
        group = Group(theirs, 1)
        with group.ours as ours:
            ours.settimeout(PATIENCE)
            assert client(group) == came(ours)
            assert os.fstat(ours.fileno()).st_uid == 65534


def test_obstacles() -> None:
    """What cannot be knocked at is named; what is no TCP is none of our business."""
    with bound("127.0.0.1") as plain, socket.socket(socket.AF_UNIX) as local:
        assert obstacle(plain) is None
        assert (is_tcp(plain), is_tcp(local)) == (True, False)
        if os.geteuid() == 0:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
            assert obstacle(plain) == "it is bound to a network device"
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert not is_tcp(datagrams)


def test_address_of_another_program() -> None:
    """Where another socket is in the way, listening fails as it would."""
    with bound("127.0.0.1") as theirs:
        group = Group(theirs, 1)
        with group.ours, socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(theirs.getsockname())
