"""Tests of sni."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import certify
from tlsify.tls.sni import Choice

if TYPE_CHECKING:
    from tlsify.credentials.key_pair import KeyPair

AUTHORITY = trustme.CA()
DEFAULT = certify(AUTHORITY, "default.example", "also.example")
A = certify(AUTHORITY, "a.example", "Mixed.Example")
WILD = certify(AUTHORITY, "*.example", "xn--exmple-cua.test")
RSA = certify(AUTHORITY, "a.example", kind="rsa")
DEFAULT_RSA = certify(AUTHORITY, "also.example", "default.example", kind="rsa")
CHOICE = Choice(DEFAULT, (A, WILD, RSA))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.example", {A, RSA}),
        ("a.example.", {A, RSA}),
        ("mixed.example", {A}),
        ("b.example", {WILD}),
        ("xn--exmple-cua.example", {WILD}),
        ("xn--exmple-cua.test", {WILD}),
        ("default.example", {DEFAULT}),
    ],
)
def test_known_names(name: str, shown: set[KeyPair]) -> None:
    """An exact name, before a wildcard, in any case; all kinds of key that there are for it."""
    group, is_ours = CHOICE.find(name)
    assert is_ours
    assert set(group) == shown


@pytest.mark.parametrize(
    "name",
    [None, "", ".", "example", ".example.org", "b.c.example", "*", "a.example.org", "x" * 255],
)
def test_unknown_names(name: str | None) -> None:
    """A wildcard is one whole label; who names nobody we know is shown the default."""
    assert CHOICE.find(name) == ((DEFAULT,), False)


def test_wildcard_for_other_kinds_of_key() -> None:
    """A client that cannot verify the exact name's key may be able to with the wildcard's."""
    wild = certify(AUTHORITY, "*.example", kind="rsa")
    group, _ = Choice(DEFAULT, (A, wild)).find("a.example")
    assert set(group) == {A, wild}


def test_two_of_a_kind() -> None:
    """Of two for one name the first counts, and the default is before all."""
    second = certify(AUTHORITY, "a.example")
    assert Choice(DEFAULT, (A, second)).find("a.example")[0] == (A,)
    assert Choice(second, (A,)).find("a.example")[0] == (second,)


def test_default_of_several_kinds() -> None:
    """The default has its companion of another kind for the same names, and of no other."""
    group, _ = Choice(DEFAULT, (A, RSA, DEFAULT_RSA)).find(None)
    assert set(group) == {DEFAULT, DEFAULT_RSA}
    same_kind = certify(AUTHORITY, "default.example", "also.example")
    assert Choice(DEFAULT, (same_kind,)).find(None)[0] == (DEFAULT,)


def test_one_address() -> None:
    """Who sends an address, which RFC 6066 does not want, gets the certificate for it."""
    addressed = certify(AUTHORITY, "192.0.2.1")
    assert Choice(DEFAULT, (addressed,)).find("192.0.2.1")[0] == (addressed,)


@given(st.text(max_size=300))
def test_any_name(name: str) -> None:
    """Whatever a client asks for, it is shown something."""
    group, _ = CHOICE.find(name)
    assert group


def test_a_thousand() -> None:
    """Finding one among many takes no longer than among few."""
    pairs = [certify(AUTHORITY, f"{i}.example") for i in range(1000)]
    choice = Choice(DEFAULT, pairs)
    begin = time.process_time()
    found = [choice.find(f"{i}.example")[0] for i in range(1000)]
    assert time.process_time() - begin < 0.2
    assert [group[0] for group in found] == pairs
