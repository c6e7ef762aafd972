"""Messages between a server's process and a key holder: records in; output and the outcome back."""

from __future__ import annotations

import itertools
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from tlsify import errors
from tlsify.codepoints import AlertDescription, CipherSuite
from tlsify.errors import HandshakeError, TlsifyError
from tlsify.keys import Keys, TrafficKeys
from tlsify.tls.challenge import ChallengeAnswered
from tlsify.tls.negotiated import Negotiated
from tlsify.tls.record import HEADER_LENGTH, MAX_CIPHERTEXT, split_records

if TYPE_CHECKING:
    from collections.abc import Sequence

# Two records, one of which may be ChangeCipherSpec.
MAX_REQUEST = 2 * (HEADER_LENGTH + MAX_CIPHERTEXT) + 2
# The longest that OpenSSL says at once is 100 KiB of certificates. What ends a handshake has two
# tickets of at most 64 KiB, and the client's certificate.
MAX_REPLY = 2**18
_HEAD = 2  # bytes of kind and choice
# Errors that a holder may report; another one is reported as the nearest of its bases.
_ERRORS: dict[str, type[TlsifyError]] = {
    kind.__name__: kind
    for kind in (
        errors.TlsifyError,
        errors.ConfigError,
        errors.ResourceError,
        errors.HandshakeError,
        errors.PeerAlert,
        errors.PeerMisbehaved,
        errors.IdentityError,
        errors.NoCertificate,
        ChallengeAnswered,
    )
}
# Of texts in errors, which may quote a peer, in bytes; and how many names one may have.
_LONGEST, _MOST_NAMES = 2**12, 2**6
_NO_ALERT = 255  # unassigned
_LENGTH = struct.Struct("!I")
_FACTS = struct.Struct("!HBIQQ")  # suite, whether resumed, max_fragment_length, sequence numbers


class Kind(IntEnum):
    """Kind of a message: its first byte."""

    RECORDS = 1
    REFUSAL = 2
    MORE = 16
    FINISHED = 17
    FAILED = 18


class Request(NamedTuple):
    """Records from the peer, or bytes that are none (`Engine.refuse`).

    Attributes:
        choice: which of the holder's choices of record protection to negotiate.
        records: each with its header; none with a refusal.
        refused: what came instead.
        alert: what it has to be answered with where nothing is protected.
    """

    choice: int
    records: tuple[bytes, ...] = ()
    refused: bytes = b""
    alert: AlertDescription | None = None


class Reply(NamedTuple):
    """A holder's reply to a request.

    Attributes:
        output: for the peer, now.
        negotiated: the outcome; None while more records are needed.
        key_log: lines that the configuration asks for.
        error: the handshake's, which has failed.
        keys: with an outcome.
    """

    output: bytes
    negotiated: Negotiated | None = None
    key_log: bytes = b""
    error: TlsifyError | None = None
    keys: Keys | None = None


def encode_request(request: Request) -> bytes:
    """Write a request."""
    if request.records:
        return bytes([Kind.RECORDS, request.choice]) + b"".join(request.records)
    return bytes([Kind.REFUSAL, request.choice, _number_of(request.alert)]) + request.refused


def decode_request(raw: bytes) -> Request:
    """Read a request, from a process that may have been taken over.

    Raises:
        ValueError: it is malformed.
    """
    if len(raw) > MAX_REQUEST:
        raise ValueError(f"{len(raw)} bytes")
    if raw[:1] == bytes([Kind.RECORDS]) and len(raw) >= _HEAD + HEADER_LENGTH:
        records = split_records(raw[_HEAD:])
        for record in records:
            length = int.from_bytes(record[3:HEADER_LENGTH], "big")
            if len(record) != HEADER_LENGTH + length or length > MAX_CIPHERTEXT:
                raise ValueError("no whole records")
        return Request(raw[1], tuple(records))
    if raw[:1] == bytes([Kind.REFUSAL]) and len(raw) > _HEAD + 1:
        return Request(raw[1], (), raw[_HEAD + 1 :], AlertDescription.known(raw[_HEAD]))
    raise ValueError(f"{len(raw)} bytes that begin with {raw[:3].hex()}")


def _number_of(alert: AlertDescription | None) -> int:
    return _NO_ALERT if alert is None else int(alert)


def encode_reply(reply: Reply) -> bytearray:
    """Write a reply; the traffic secrets are in it once the handshake is finished."""
    if reply.error is not None:
        return _message(Kind.FAILED, reply.output, *describe(reply.error))
    found, made = reply.negotiated, reply.keys
    if found is None or made is None:
        return _message(Kind.MORE, reply.output)
    facts = _FACTS.pack(
        found.suite.value.number,
        found.resumed,
        found.max_fragment_length or 0,
        made.tx.seq,
        made.rx.seq,
    )
    name = (found.server_name or "").encode()
    public = (facts, found.alpn or b"", name, found.certificate or b"", found.group.encode())
    keys = (made.tx.key, made.tx.iv, made.rx.key, made.rx.iv)
    secrets = (made.tx_secret, made.rx_secret)
    return _message(Kind.FINISHED, reply.output, reply.key_log, *public, *keys, *secrets)


def decode_reply(raw: memoryview) -> Reply:
    """Read a reply; wiping it is the caller's affair.

    Raises:
        ValueError: it is malformed.
    """
    try:
        kind, (output, *rest) = raw[0], read_vectors(raw[1:])
        if kind == Kind.MORE and not rest:
            return Reply(bytes(output))
        if kind == Kind.FAILED:
            return Reply(bytes(output), error=revive([bytes(each) for each in rest]))
        if kind == Kind.FINISHED:
            negotiated, keys = _outcome(*rest[1:])
            return Reply(bytes(output), negotiated, bytes(rest[0]), keys=keys)
    except (IndexError, KeyError, TypeError, struct.error) as exc:
        raise ValueError("a malformed reply") from exc
    raise ValueError(f"a reply of kind {kind}")


def _outcome(
    facts: bytearray, alpn: bytearray, name: bytearray, certificate: bytearray, group: bytearray,
    *secret: bytearray,
) -> tuple[Negotiated, Keys]:  # fmt: skip
    number, resumed, fragment, tx_seq, rx_seq = _FACTS.unpack(facts)
    suite = CipherSuite.from_number(number)
    tx_key, tx_iv, rx_key, rx_iv, tx_secret, rx_secret = secret
    keys = Keys(
        TrafficKeys(suite, tx_key, tx_iv, tx_seq),
        TrafficKeys(suite, rx_key, rx_iv, rx_seq),
        tx_secret,
        rx_secret,
    )
    negotiated = Negotiated(
        suite=suite,
        alpn=bytes(alpn) or None,
        server_name=name.decode() or None,
        certificate=bytes(certificate) or None,
        group=group.decode(),
        resumed=bool(resumed),
        max_fragment_length=fragment or None,
    )
    return negotiated, keys


def _message(kind: Kind, *parts: bytes | bytearray) -> bytearray:
    return vectors(parts, bytes([kind]))


def vectors(parts: Sequence[bytes | bytearray], head: bytes = b"") -> bytearray:
    """Write a head and parts, each with its length in front."""
    # Made in one piece, it leaves none behind.
    pieces = itertools.chain.from_iterable((_LENGTH.pack(len(part)), part) for part in parts)
    return bytearray().join((head, *pieces))


def read_vectors(raw: memoryview) -> list[bytearray]:
    """Read what `vectors` wrote.

    Raises:
        ValueError: it goes beyond the end.
        struct.error: it ends within a length.
    """
    parts, position = [], 0
    while position < len(raw):
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if length > len(raw) - position:
            raise ValueError("a part goes beyond the end")
        parts.append(bytearray(raw[position : position + length]))
        position += length
    return parts


# -- errors


def describe(error: TlsifyError) -> tuple[bytes, ...]:
    """Write an error: its class, message, hint and alert, and the names that did not match."""
    kind = next(each for each in type(error).__mro__ if each.__name__ in _ERRORS)
    alert = error.alert if isinstance(error, HandshakeError) else None
    asked = (getattr(error, "server_name", None) or "").encode()
    names = getattr(error, "mismatches", ())[:_MOST_NAMES]
    texts = (kind.__name__, str(error), error.hint, *names)
    name, message, hint, *rest = (text.encode("utf-8", "replace")[:_LONGEST] for text in texts)
    return name, message, hint, bytes([_number_of(alert)]), asked, *rest


def revive(parts: Sequence[bytes]) -> TlsifyError:
    """Read what `describe` wrote.

    Raises:
        IndexError: parts are missing.
        KeyError: there is no such error.
    """
    kind, message, hint = (parts[at].decode("utf-8", "replace") for at in range(3))
    found = _ERRORS[kind]
    # The arguments have already been through the constructors.
    error = found.__new__(found, message)
    error.args = (message,)
    error.hint = hint
    if isinstance(error, HandshakeError):
        error.alert = AlertDescription.known(parts[3][0])
        error.server_name = parts[4].decode() or None
    if isinstance(error, errors.IdentityError):
        error.mismatches = tuple(part.decode("utf-8", "replace") for part in parts[5:])
    return error
