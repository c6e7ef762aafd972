"""Tests of unbound."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from OpenSSL import SSL

from tlsify.tls import unbound


def _connection() -> SSL.Connection:
    return SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)


def test_new_connection() -> None:
    """What has not shaken hands has not resumed."""
    assert unbound.session_reused(_connection()) is False


@pytest.mark.parametrize(("number", "words"), [(0, "ok"), (10, "certificate has expired")])
def test_verify_error(number: int, words: str) -> None:
    """The words are OpenSSL's own."""
    assert unbound.verify_error(number) == words


def test_library_without_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of cryptography that binds less costs information, not the connection."""
    monkeypatch.setattr(unbound, "_lib", SimpleNamespace())
    assert unbound.session_reused(_connection()) is False
    assert unbound.verify_error(10) == "X.509 verification error 10"
