"""Tests of board."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography import x509

from tlsify.acme import board
from tlsify.acme.board import Board
from tlsify.errors import TlsifyError
from tlsify.system.process import fork, status_of
from tlsify.tls.challenge import PROTOCOL

_DIGEST = hashlib.sha256(b"token.thumbprint").digest()


def test_certificate_of_a_challenge() -> None:
    """It is as RFC 8737 has it: for the name alone, with the digest, critical."""
    found = Board()
    found.publish({"a.example": _DIGEST}, {})
    shown = found.tls("a.example")
    assert shown is not None
    assert shown is found.tls("a.example")  # an authority looks several times
    assert shown.alpn == (PROTOCOL,)
    assert shown.key_pair.names == ("a.example",)
    oid = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
    extension = shown.key_pair.chain[0].extensions.get_extension_for_oid(oid)
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"\x04\x20" + _DIGEST
    assert shown.client_trust is None


def test_what_is_pending() -> None:
    """That alone is found which was published last, in each process that was forked before."""
    found = Board()
    assert (found.tls("a.example"), found.http("token")) == (None, None)
    pid = fork()
    if pid == 0:
        found.publish({"a.example": _DIGEST}, {"token": "token.thumbprint"})
        os._exit(0)
    assert status_of(pid) == 0
    assert found.tls("a.example") is not None
    assert found.http("token") == "token.thumbprint"
    for name in ("b.example", "", "token"):
        assert found.tls(name) is None
    found.publish({}, {"other": "x"})
    assert (found.tls("a.example"), found.http("token")) == (None, None)
    found.clear()
    assert found.http("other") is None


def test_writer_that_is_not_done() -> None:
    """Half of a change is as nothing."""
    found = Board()
    found.publish({}, {"token": "x"})
    found._memory[board._HEAD + 5] ^= 1
    assert found.http("token") is None


def test_too_many() -> None:
    """What does not fit is refused; what was there stays."""
    found = Board()
    found.publish({}, {"token": "x"})
    with pytest.raises(TlsifyError, match="too many"):
        found.publish({}, {f"{number:0256}": "x" * 300 for number in range(200)})
    assert found.http("token") == "x"
