"""Tests of proxies: who is one."""

from __future__ import annotations

import pytest

from tlsify.errors import ConfigError
from tlsify.passing.proxies import Proxies


@pytest.mark.parametrize(
    ("text", "name", "is_one"),
    [
        ("192.0.2.1", ("192.0.2.1", 5), True),
        ("192.0.2.1", ("::ffff:192.0.2.1", 5, 0, 0), True),
        ("192.0.2.1", ("192.0.2.2", 5), False),
        ("::ffff:192.0.2.1", ("192.0.2.1", 5), True),
        ("::ffff:10.0.0.0/104", ("::ffff:10.9.8.7", 5, 0, 0), True),
        ("::ffff:10.0.0.0/104", ("11.0.0.1", 5), False),
        ("::/0", ("192.0.2.1", 5), False),
        ("10.0.0.0/8,2001:db8::/32", ("10.9.8.7", 5), True),
        ("10.0.0.0/8,[2001:db8::1]", ("2001:db8::1", 5, 0, 0), True),
        ("fe80::/10", ("fe80::1%eth0", 5, 0, 2), True),
        ("0.0.0.0/0", ("2001:db8::1", 5, 0, 0), False),
        ("0.0.0.0/0,::/0", "", False),
        ("unix:", "", True),
        ("unix:", ("127.0.0.1", 5), False),
    ],
)
def test_sources(text: str, name: object, *, is_one: bool) -> None:
    """It is its address that counts, however an IPv4 one is spelled."""
    assert Proxies.parse(text).has(name) is is_one


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "lb.example", "192.0.2.1,", "unix:/run/x"])
def test_mistakes(text: str) -> None:
    """A name is not looked up, and a network with a host's bits is a slip."""
    with pytest.raises(ConfigError, match="no address or network"):
        Proxies.parse(text)
