"""Tests of which connections go to which backends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.errors import ConfigError
from tlsify.serving.backend.address import Backend
from tlsify.serving.backend.routes import Rule, Traits


@given(st.text())
def test_any_text(text: str) -> None:
    """Anything is a rule or a ConfigError."""
    for each in (text, f"listen:{text}", f"sni:{text}"):
        try:
            Rule.parse(each)
        except ConfigError:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h2",
        "=127.0.0.1:1",
        "sni:=127.0.0.1:1",
        "h2=",
        "h2=nobody",
        "listen:=a:1",
        "listen:1=a:1",
        "listen:127.0.0.1:0=a:1",
        "listen:example.org:1=a:1",
    ],
)
def test_no_rule(text: str) -> None:
    """A rule has two halves."""
    with pytest.raises(ConfigError):
        Rule.parse(text)


@pytest.mark.parametrize(
    ("rule", "alpn", "name", "fits"),
    [
        ("h2=a:1", b"h2", None, True),
        ("h2=a:1", b"http/1.1", None, False),
        ("h2=a:1", None, None, False),
        ("sni:www.example.org=a:1", None, "www.example.org", True),
        ("sni:WWW.example.org.=a:1", b"h2", "www.Example.org.", True),
        ("sni:www.example.org=a:1", None, "example.org", False),
        ("sni:www.example.org=a:1", None, None, False),
        ("sni:*.example.org=a:1", None, "www.example.org", True),
        ("sni:*.example.org=a:1", None, "a.www.example.org", False),
        ("sni:*.example.org=a:1", None, "example.org", False),
    ],
)
def test_rules(rule: str, alpn: bytes | None, name: str | None, *, fits: bool) -> None:
    """Protocols are compared byte by byte, names as names."""
    assert Rule.parse(rule).fits(Traits(alpn, name)) is fits


@pytest.mark.parametrize(
    ("where", "local", "fits"),
    [
        ("127.0.0.1:25", ("127.0.0.1", 25), True),
        ("127.0.0.1:25", ("127.0.0.1", 26), False),
        ("127.0.0.1:25", ("127.0.0.2", 25), False),
        (":25", ("127.0.0.1", 25), True),
        (":25", ("::1", 25, 0, 0), True),
        ("[::1]:25", ("::1", 25, 0, 0), True),
        ("localhost:25", ("127.0.0.1", 25), True),
        ("localhost:25", ("::1", 25, 0, 0), True),
        ("localhost:25", ("127.0.0.1", 26), False),
        ("unix:/run/a", "/run/a", True),
        ("unix:/run/a", "/run/b", False),
        ("unix:/run/a", ("127.0.0.1", 25), False),
        ("127.0.0.1:25", "/run/a", False),
        ("127.0.0.1:25", None, False),
    ],
)
def test_listeners(where: str, local: object, *, fits: bool) -> None:
    """A connection is known by where it was accepted."""
    rule = Rule.parse(f"listen:{where}=tls:a:1")
    assert rule.fits(Traits(local=local)) is fits
    assert rule.backends == (Backend("a", 1, is_tls=True),)
