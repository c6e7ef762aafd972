"""A negotiated session as bytes, for another process, and back."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.errors import ConfigError
from tlsify.tls.messages import HANDSHAKE_HEADER_LENGTH, MAX_TICKET_MESSAGE
from tlsify.tls.negotiated import Negotiated
from tlsify.tls.ration import MOST, Ration
from tlsify.tls.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = b"tlsify\x00\x01"  # the last byte is the version of what follows
_FIXED = struct.Struct("!8sHBII")
_CLIENT, _PEER_CLOSED, _CLOSE_NOTIFY_SENT, _UPDATE_DUE, _RESUMED = (1 << bit for bit in range(5))
_LENGTH = struct.Struct("!I")
_LENGTHS_OF_SECRETS = {"sha256": 32, "sha384": 48}


def export_secrets(negotiated: Negotiated, session: Session) -> bytearray:
    """Write down everything but the descriptor; the traffic secrets are in it.

    Args:
        negotiated: its traffic keys are left out, since the kernel has them.
        session: one that has not failed.
    """
    flags = (
        _CLIENT * session.is_client
        | _PEER_CLOSED * session.peer_closed
        | _CLOSE_NOTIFY_SENT * session.close_notify_sent
        | _UPDATE_DUE * session.update_due
        | _RESUMED * negotiated.resumed
    )
    fixed = _FIXED.pack(
        _MAGIC,
        session.suite.value.number,
        flags,
        max(int(session.ration.left), 0),
        negotiated.max_fragment_length or 0,
    )
    parts = (
        negotiated.alpn or b"",
        (negotiated.server_name or "").encode(),
        negotiated.certificate or b"",
        negotiated.group.encode(),
        session.unfinished,
        session.tx_secret if session.can_rekey else b"",
        session.rx_secret if session.can_rekey else b"",
    )
    # Made in one piece, it leaves none behind.
    pieces = itertools.chain.from_iterable((_LENGTH.pack(len(part)), part) for part in parts)
    return bytearray().join((fixed, *pieces))


def restore(state: bytes | bytearray, *, can_rekey: bool) -> tuple[Negotiated, Session]:
    """Parse the output of `export_secrets`.

    Args:
        state: wiping it afterwards is the caller's affair.
        can_rekey: whether this kernel can replace a key.

    Raises:
        ConfigError: it is something else, or damaged.
    """
    try:
        return _restore(state, can_rekey=can_rekey)
    except (ValueError, struct.error, KeyError) as exc:
        raise ConfigError(
            "invalid session state",
            hint="hand over what Handoff.detach gave, of the same version of tlsify",
        ) from exc


def _restore(state: bytes | bytearray, *, can_rekey: bool) -> tuple[Negotiated, Session]:
    magic, number, flags, left, fragment = _FIXED.unpack_from(state)
    if magic != _MAGIC:
        raise ValueError(magic)
    suite = CipherSuite.from_number(number)
    alpn, name, certificate, group, unfinished, tx_secret, rx_secret = _vectors(state, 7)
    expected = _LENGTHS_OF_SECRETS[suite.hash_name]
    longest = HANDSHAKE_HEADER_LENGTH + MAX_TICKET_MESSAGE
    if {len(tx_secret), len(rx_secret)} not in ({0}, {expected}) or len(unfinished) >= longest:
        raise ValueError(number)
    has_secrets = bool(tx_secret) and suite.version is ProtocolVersion.TLSv1_3
    session = Session(
        suite,
        is_client=bool(flags & _CLIENT),
        can_rekey=can_rekey and has_secrets,
        tx_secret=tx_secret,
        rx_secret=rx_secret,
        ration=Ration(min(left, MOST)),
        unfinished=unfinished,
        peer_closed=bool(flags & _PEER_CLOSED),
        close_notify_sent=bool(flags & _CLOSE_NOTIFY_SENT),
        update_due=bool(flags & _UPDATE_DUE),
    )
    negotiated = Negotiated(
        suite,
        alpn=bytes(alpn) or None,
        server_name=name.decode() or None,
        certificate=bytes(certificate) or None,
        group=group.decode(),
        resumed=bool(flags & _RESUMED),
        max_fragment_length=fragment or None,
    )
    return negotiated, session


def _vectors(state: bytes | bytearray, count: int) -> Iterator[bytearray]:
    position = _FIXED.size
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(state, position)
        position += _LENGTH.size
        vector = bytearray(state[position : position + length])
        if len(vector) != length:
            raise ValueError(length)
        position += length
        yield vector
    if position != len(state):
        raise ValueError(position)
