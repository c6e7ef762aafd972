"""Tests of traefik."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.credentials.traefik import _parse, read
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def stored(name: str, chain: bytes = b"chain", key: bytes = b"key") -> dict[str, Any]:
    """Write one certificate as Traefik does."""
    return {
        "domain": {"main": name, "sans": [f"www.{name}"]},
        "certificate": base64.b64encode(chain).decode(),
        "key": base64.b64encode(key).decode(),
        "Store": "default",
    }


def test_certificates(tmp_path: Path) -> None:
    """Each resolver has its own, or none yet; two may have the same first name."""
    path = tmp_path / "acme.json"
    kept = {
        "le": {
            "Account": {"PrivateKey": "x"},
            "Certificates": [stored("a.example", b"1", b"2"), stored("a.example", b"3")],
        },
        "staging": {"Account": None, "Certificates": None},
        "other": {"Certificates": [stored("*.example")]},
    }
    path.write_text(json.dumps(kept))
    assert read(path) == {
        "le/a.example": (b"1", b"2"),
        "le/a.example, 1": (b"3", b"key"),
        "other/*.example": (b"chain", b"key"),
    }
    path.write_text("{}")
    assert read(path) == {}


@pytest.mark.parametrize(
    "kept",
    [
        *(None, [], 1, "x", {"a": 1}, {"a": {"Certificates": 1}}, {"a": {"Certificates": [1]}}),
        {"a": {"Certificates": [{}]}},
        {"a": {"Certificates": [stored("a") | {"key": "?"}]}},
        {"a": {"Certificates": [stored("a") | {"key": None}]}},
        {"a": {"Certificates": [stored("a") | {"domain": "a"}]}},
    ],
)
def test_something_else(kept: object) -> None:
    """It is named."""
    with pytest.raises(ConfigError, match=r"acme\.json is not a certificate file"):
        _parse(json.dumps(kept).encode(), "acme.json")


@given(st.binary(max_size=40))
def test_anything(content: bytes) -> None:
    """Any bytes are certificates, or a ConfigError."""
    try:
        assert isinstance(_parse(content, "it"), dict)
    except ConfigError as error:
        assert error.hint


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """The system's reason is told."""
    with pytest.raises(ConfigError, match=r"cannot read certificates .*absent"):
        read(tmp_path / "absent")


def test_too_deep() -> None:
    """What nests without end is something else, too."""
    with pytest.raises(ConfigError):
        _parse(b"[" * 200_000, "it")
