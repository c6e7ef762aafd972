"""Tests of stunnel's services that are about one name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.migration.test_stunnel import LOST, NOTE, SECURITY, one
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from tlsify.cli.migration.draft import Weight

_MASTER = "cert = a\n[s]\naccept = 443\nconnect = 80\ncert = b\n"


def test_routes() -> None:
    """A service for a name becomes a route, if all else that is about TLS is the same."""
    found, lost = one(f"{_MASTER}[t]\nsni = s:u.t\nsni = s:t\ncert = c\nconnect = 81\n")
    assert found["cert"] == ["b", "c"]
    assert found["route"] == ["sni:u.t=localhost:81", "sni:t=localhost:81"]
    assert lost == {"sni": NOTE}


@pytest.mark.parametrize(
    ("lines", "weight", "routes"),
    [
        ("verifyChain = yes\nCAfile = x\nconnect = 81", SECURITY, ["sni:t=localhost:81"]),
        ("TIMEOUTidle = 5\nconnect = 81", LOST, ["sni:t=localhost:81"]),
        ("accept = 9\nconnect = 81", LOST, ["sni:t=localhost:81"]),
        ("exec = /bin/x", LOST, None),
    ],
)
def test_what_is_the_others(lines: str, weight: Weight, routes: list[str] | None) -> None:
    """What tlsify has for all names at an address is not passed over."""
    found, lost = one(f"{_MASTER}[t]\nsni = s:t\n{lines}\n")
    assert (found.get("route"), lost["sni"]) == (routes, weight)


@pytest.mark.parametrize(
    ("pattern", "routes"), [("*", None), ("*t", None), ("*.t", ["sni:*.t=localhost:81"])]
)
def test_patterns(pattern: str, routes: list[str] | None) -> None:
    """A star is for any beginning there, and for one label here."""
    found, lost = one(f"{_MASTER}[t]\nsni = s:{pattern}\nconnect = 81\n")
    assert (found.get("route"), lost["sni"]) == (routes, LOST)


def test_nobody_listens() -> None:
    """That is a mistake."""
    with pytest.raises(ConfigError, match=r"no service \[x\]"):
        one(f"{_MASTER}[t]\nsni = x:t\nconnect = 1\n")
