"""Tests of target."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.static.target import Target

NAMES = st.binary(min_size=1).filter(lambda name: not {0, 47} & set(name))
NAME = NAMES.filter(lambda name: name not in {b".", b".."})


@pytest.mark.parametrize(
    ("path", "names", "is_folder"),
    [
        ("", [], True),
        ("/", [], True),
        ("/a", [b"a"], False),
        ("/a/", [b"a"], True),
        ("//a//b", [b"a", b"b"], False),
        ("/a/..", [], True),
        ("/a/.", [b"a"], True),
        ("/a/../b", [b"b"], False),
        ("/a/%2E%2e/b", [b"b"], False),
        ("/...", [b"..."], False),
        ("/%e9", [b"\xe9"], False),
        ("/é\udcff", ["é".encode() + b"\xff"], False),
        ("/%25", [b"%"], False),
        ("/%2541", [b"%41"], False),
    ],
)
def test_paths(path: str, names: list[bytes], is_folder: bool) -> None:
    """Segments are divided first, then decoded, then dots are resolved."""
    assert Target.parse(path) == Target(names, is_folder)


@pytest.mark.parametrize("path", ["/..", "/a/../..", "/../a", "/%2e%2e/a", "/a%2fb", "/a%00"])
def test_no_names(path: str) -> None:
    """Out of the folder there is nothing, and no file has such a name."""
    assert Target.parse(path) is None


@pytest.mark.parametrize("path", ["/%", "/%a", "/%ag", "/%%41", "/a/%g0/", "/\ud800"])
def test_no_paths(path: str) -> None:
    """They mean nothing."""
    with pytest.raises(ValueError, match=r"percent|encode"):
        Target.parse(path)


@given(st.lists(NAME))
def test_any_names(names: list[bytes]) -> None:
    """What is encoded is decoded, and spelled again in the same way."""
    path = "/" + "/".join(map(quote, names))
    target = Target.parse(path)
    assert target is not None
    assert target.names == names
    assert Target.parse(target.reference()) == Target(names, is_folder=True)
    assert target.reference().startswith("/")
    assert not target.reference().startswith("//")


@given(st.text(st.characters()))
def test_any_path(path: str) -> None:
    """Nothing but what is documented is raised, and no name leads anywhere else."""
    try:
        target = Target.parse(path)
    except ValueError:
        return
    for name in target.names if target else ():
        assert name not in {b"", b".", b".."}
        assert not {0, 47} & set(name)


@pytest.mark.parametrize(
    ("path", "is_hidden"),
    [
        ("/a/b.c", False),
        ("/.a", True),
        ("/a/.b/c", True),
        ("/%2ea", True),
        ("/.well-known", False),
        ("/.well-known/acme-challenge/x", False),
        ("/.well-known/.x", True),
        ("/.Well-Known/x", True),
        ("/a/.well-known/x", True),
        ("/.a/../b", False),
        ("/.well-known/../.a", True),
    ],
)
def test_hidden(path: str, is_hidden: bool) -> None:
    """A dot at the beginning hides, but for what RFC 8615 keeps at the top."""
    target = Target.parse(path)
    assert target is not None
    assert target.is_hidden == is_hidden
