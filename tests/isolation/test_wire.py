"""Tests of wire."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import EnginePair
from tests.tls.test_tunnel import CLIENT, SERVER
from tlsify import errors
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.isolation import wire
from tlsify.isolation.wire import Reply, Request
from tlsify.tls.record import MAX_CIPHERTEXT, encode_record

_RECORD = encode_record(ContentType.handshake, b"hello")


@pytest.mark.parametrize(
    "request_",
    [
        Request(0, (_RECORD,)),
        Request(1, (encode_record(ContentType.change_cipher_spec, b"\1"), _RECORD)),
        Request(0, (), b"GET /", AlertDescription.unexpected_message),
        Request(0, (), b"\xff"),
        Request(0, (encode_record(ContentType.handshake, bytes(MAX_CIPHERTEXT)),) * 2),
    ],
)
def test_request(request_: Request) -> None:
    """What is written is read; it fits."""
    raw = wire.encode_request(request_)
    assert wire.decode_request(raw) == request_


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\1",
        b"\1\0",
        b"\1\0\x16\3\3\0",
        b"\1\0" + _RECORD[:-1],
        b"\1\0" + _RECORD + b"\x16\3",
        b"\1\0\x16\3\3\xff\xff" + bytes(2**16 - 1),
        b"\2\0\0",
        b"\3\0" + _RECORD,
    ],
)
def test_malformed_request(raw: bytes) -> None:
    """It is refused with a ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"bytes|record"):
        wire.decode_request(raw)


@given(st.binary(max_size=60))
def test_arbitrary_request(raw: bytes) -> None:
    """A process that was taken over may say anything."""
    try:
        found = wire.decode_request(raw)
    except ValueError:
        return
    assert b"".join(found.records) == raw[2:] or found.refused == raw[3:]


def test_outcome() -> None:
    """All of it arrives, secrets included, which are not in the reply's repr."""
    pair = EnginePair(CLIENT, SERVER)
    (_, negotiated), (_, keys) = pair.run(), pair.keys
    raw = wire.encode_reply(Reply(b"output", negotiated, b"log\n", keys=keys))
    found = wire.decode_reply(memoryview(raw))
    assert (found.output, found.key_log, found.error) == (b"output", b"log\n", None)
    again = found.negotiated
    assert again is not None
    for name in ("suite", "alpn", "server_name", "certificate", "group", "resumed"):
        assert getattr(again, name) == getattr(negotiated, name), name
    made = found.keys
    assert made is not None
    for ours, theirs in ((made.tx, keys.tx), (made.rx, keys.rx)):
        assert (ours.key, ours.iv, ours.seq) == (theirs.key, theirs.iv, theirs.seq)
    assert (made.tx_secret, made.rx_secret) == (keys.tx_secret, keys.rx_secret)
    assert bytes(made.tx_secret).hex() not in repr(found)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.PeerMisbehaved("bad", alert=AlertDescription.decode_error), errors.PeerMisbehaved),
        (errors.PeerAlert("ended", hint="look"), errors.PeerAlert),
        (
            errors.IdentityError("no", mismatches=("a", "b"), alert=AlertDescription.unknown_ca),
            errors.IdentityError,
        ),
        (errors.ConfigError("wrong", hint="mend it"), errors.ConfigError),
        (errors.TlsifyError("bug"), errors.TlsifyError),
        (errors.WorkerError("of another class"), errors.TlsifyError),
        (errors.Truncated("x" * 10_000), errors.HandshakeError),
    ],
)
def test_error(error: errors.TlsifyError, kind: type) -> None:
    """An error arrives with its class, or the nearest, and its attributes."""
    if isinstance(error, errors.PeerMisbehaved):
        error.server_name = "shop.example"
    found = wire.decode_reply(memoryview(wire.encode_reply(Reply(b"alert", error=error)))).error
    assert found is not None
    assert type(found) is kind
    assert str(error).startswith(str(found))
    assert found.hint == error.hint
    for name in ("alert", "mismatches", "server_name"):
        assert getattr(found, name, None) == getattr(error, name, None)


@given(st.binary(max_size=60))
def test_arbitrary_reply(raw: bytes) -> None:
    """A holder that has gone wrong raises ValueError here, and nothing else."""
    with contextlib.suppress(ValueError):
        wire.decode_reply(memoryview(raw))


def test_vectors_that_end_early() -> None:
    """They are refused."""
    raw = wire.vectors([b"abc", b""])
    assert wire.read_vectors(memoryview(raw)) == [b"abc", b""]
    with pytest.raises(ValueError, match="beyond"):
        wire.read_vectors(memoryview(raw)[:5])
    with pytest.raises(struct.error):
        wire.read_vectors(memoryview(raw)[:-1])
