"""Tests of addresses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tlsify.addresses import Address, is_same, overlap
from tlsify.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[fe80::1%25eth0]:1", Address("fe80::1%eth0", 1)),
        ("localhost:65535", Address("localhost", 65535)),
        ("example.org:https", Address("example.org", 443)),
        ("exämple.org:8443", Address("xn--exmple-cua.org", 8443)),
        ("unix:/run/app.sock", Address(path="/run/app.sock")),
        ("unix:relative", Address(path="relative")),
    ],
)
def test_spelling(text: str, address: Address) -> None:
    """Each form is read for either purpose, and written as it can be read again."""
    for parse in (Address.to_connect, Address.to_listen):
        assert parse(text) == parse(str(parse(text))) == address


def test_what_only_one_side_can_mean() -> None:
    """Every interface and any port are for listening, abstract sockets for connecting."""
    assert Address.to_listen(":0") == Address("", 0)
    assert str(Address.to_listen(":8443")) == ":8443"
    assert Address.to_connect("unix:@abstract") == Address(path="@abstract")
    for text, hint in ((":443", "write 127.0.0.1:443"), ("h:0", "write a port from 1 to 65535")):
        with pytest.raises(ConfigError) as caught:
            Address.to_connect(text)
        assert caught.value.hint == hint
    for text, hint in (("unix:@x", "write unix:PATH"), ("*:80", "write :80")):
        with pytest.raises(ConfigError) as caught:
            Address.to_listen(text)
        assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "has no port", "HOST:PORT"),
        (":", "has no port", "HOST:PORT"),
        ("host", "has no port", "write host:PORT"),
        ("host:", "has no port", "write host:PORT"),
        ("::1", "has no port", "write [::1]:PORT"),
        ("2001:db8::1", "has no port", "write [2001:db8::1]:PORT"),
        ("[::1]", "has no port", "write [::1]:PORT"),
        ("::1:443", "brackets", "write [::1]:443"),
        ("8443", "is a port alone", ":8443"),
        ("host:65536", "65536 is no port", "65535"),
        ("host:-1", "'-1' is no port", "number"),
        ("host:\udcff", "is no port", "number"),
        ("host:no\0port", "is no port", "number"),
        ("unix:", "has no path", "write unix:PATH"),
        ("unix:\0", "has no path", "write unix:PATH"),
        ("/run/app.sock", "is a path", "write unix:/run/app.sock"),
        ("http://127.0.0.1:8000", "is a URL", "write 127.0.0.1:8000"),
        ("https://[::1]:8443/path", "is a URL", "write [::1]:8443"),
        ("https://example.org/", "is a URL", "write example.org:443"),
        ("http://[::1]/", "is a URL", "write [::1]:80"),
        ("odd://host", "is a URL", "write host:PORT"),
        ("tcp://", "is a URL", "write HOST:PORT"),
        ("\udcff:1", "is no address", "spelling"),
    ],
)
def test_other_habits(text: str, message: str, hint: str) -> None:
    """Whatever else is written is refused; the hint shows what to write."""
    for parse in (Address.to_connect, Address.to_listen):
        with pytest.raises(ConfigError) as caught:
            parse(text)
        assert f'"{text}"' in str(caught.value)
        assert message in str(caught.value)
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("listener", "target", "same"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("127.0.0.1:1", "localhost:1", True),
        ("[::1]:1", "localhost:1", True),
        ("name.example:1", "name.example:1", True),
        (":1", "127.0.0.2:1", True),
        (":1", "localhost:1", True),
        ("0.0.0.0:1", "192.0.2.1:1", False),
        (":1", "name.example:1", False),
        (":1", "unix:x", False),
        ("unix:x", "unix:./x", True),
        ("unix:x", "127.0.0.1:1", False),
    ],
)
def test_forwarding_to_oneself(listener: str, target: str, same: bool) -> None:
    """It is found by what is written, and by what this host's own addresses are."""
    assert is_same(Address.to_listen(listener), Address.to_connect(target)) is same


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        (":1", ":1", True),
        (":1", "127.0.0.2:1", True),
        (":1", "[::1]:1", True),
        ("0.0.0.0:1", "192.0.2.1:1", True),
        ("0.0.0.0:1", "[::]:1", False),
        ("0.0.0.0:1", "[::1]:1", False),
        ("localhost:1", "127.0.0.1:1", True),
        ("localhost:1", "[::]:1", True),
        ("name.example:1", "name.example:1", True),
        (":1", "name.example:1", False),
        ("unix:x", "unix:./x", True),
        (":1", "unix:x", False),
    ],
)
def test_listeners_in_the_way(one: str, other: str, *, expected: bool) -> None:
    """It is found by what is written: either of the two may be for every interface."""
    pair = Address.to_listen(one), Address.to_listen(other)
    assert overlap(*pair) is overlap(*pair[::-1]) is expected


def test_relative_path_that_leads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are followed: it is the socket that counts."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("real")
        Path("link").symlink_to("real")
        assert is_same(Address(path=str(tmp_path / "real")), Address(path="link"))
