"""The commit: install the keys, or start the relay; return the Handoff."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from tlsify.codepoints import ProtocolVersion
from tlsify.connection import control
from tlsify.connection.handoff import Handoff, Offload, Reason
from tlsify.connection.relay.inline import InlineRelay
from tlsify.connection.relay.pump import Relay
from tlsify.connection.setup import keylog, session_store
from tlsify.connection.setup.eligibility import attempt, capabilities, suite_refusal
from tlsify.connection.setup.handshake import PARTING_BYTES
from tlsify.errors import (
    SHORTAGES,
    ConfigError,
    KtlsCommitError,
    KtlsError,
    KtlsUnavailable,
    ResourceError,
    TlsifyError,
)
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.metrics.counters import Event, count, relayed
from tlsify.tls import keyed_tunnel, session, ticket_reader
from tlsify.tls.tunnel import Tunnel

if TYPE_CHECKING:
    from _typeshed import StrPath

    from tlsify.config import KtlsPolicy
    from tlsify.connection.setup.session_store import SessionIntake, SessionSlot
    from tlsify.isolation.remote_engine import RemoteEngine
    from tlsify.keys import Keys, TrafficKeys
    from tlsify.tls.engine import Engine
    from tlsify.tls.keyed_tunnel import KeyedTunnel
    from tlsify.tls.negotiated import Negotiated
    from tlsify.tls.session import Session

_log = logging.getLogger("tlsify")
_REPORT = "the probe said that this suite works here: please report this kernel's version"


class Ready(NamedTuple):
    """A connection whose handshake is finished and flushed.

    Attributes:
        sock: with a ULP, unless there is a refusal.
        engine: with a result.
        policy: when to offload.
        refusal: why not, if that is known already.
        slot: place for sessions that later connections may resume.
        key_log: where to disclose the secrets.
        is_inline: whether the caller carries the data itself, if it is relayed (`InlineRelay`).
    """

    sock: socket.socket
    engine: Engine | RemoteEngine
    policy: KtlsPolicy
    refusal: KtlsUnavailable | None
    slot: SessionSlot | None
    key_log: StrPath | None
    is_inline: bool = False


def commit(ready: Ready) -> Handoff:
    """Install the keys, or start the relay; the handshake must be finished and flushed.

    Until the first key is installed any refusal leads to the relay; afterwards none does (design
    note 0003).

    Raises:
        KtlsUnavailable: the policy requires the kernel, which cannot; the connection was cut.
        KtlsCommitError: RX is the kernel's and TX was refused.
        ResourceError: no thread, descriptor or memory is available for a relay; likewise.
        OSError: the connection broke.
    """
    negotiated, keys = ready.engine.result(), ready.engine.keys
    if negotiated is None:
        msg = "commit before the end of the handshake"
        raise TlsifyError(msg)
    _log_keys(ready)
    if negotiated.resumed:
        count(Event.RESUMED)
    try:
        refusal = _install(ready, negotiated, keys)
        if refusal is not None:
            return _start_relay(ready, negotiated, keys, refusal)
        made = _session(ready, negotiated, keys)
        channel = control.Channel(ready.sock, made, _intake(ready, negotiated))
    finally:
        if keys is not None:
            keys.wipe()
    ready.engine.release()
    count(Event.OFFLOADED)
    return Handoff(ready.sock, Offload.KERNEL, None, negotiated, channel, None)


def _log_keys(ready: Ready) -> None:
    if ready.key_log is not None:
        try:
            keylog.append(ready.key_log, ready.engine.take_key_log())
        except (ConfigError, ResourceError) as exc:  # no reason to lose the connection
            _log.warning("no secrets logged: %s", exc)


def _intake(ready: Ready, negotiated: Negotiated) -> SessionIntake | None:
    """Store a TLS 1.2 session; return the reader for later TLS 1.3 tickets."""
    if ready.slot is None or ready.engine.is_remote:
        return None
    if negotiated.version is ProtocolVersion.TLSv1_3:
        return session_store.SessionIntake(ticket_reader.TicketReader(ready.engine), ready.slot)
    found = ready.engine.resumable()
    if found is not None:
        ready.slot.keep(found)
    return None


def _session(ready: Ready, negotiated: Negotiated, keys: Keys | None) -> Session:
    """Make the session, with the traffic secrets only if keys can change."""
    is_client = ready.engine.is_client
    if keys is None or not capabilities().rekey or negotiated.version < ProtocolVersion.TLSv1_3:
        return session.Session(negotiated.suite, is_client)
    return session.Session(
        negotiated.suite,
        is_client,
        can_rekey=True,
        tx_secret=bytearray(keys.tx_secret),
        rx_secret=bytearray(keys.rx_secret),
    )


def _install(ready: Ready, negotiated: Negotiated, keys: Keys | None) -> KtlsUnavailable | None:
    """Install both keys, or none; return the refusal that leads to the relay."""
    try:
        if ready.refusal is not None:
            return attempt(ready.policy, _refuse, ready.refusal)
        if keys is None:
            msg = "keys that were never derived"  # the engine was made for a relay
            raise TlsifyError(msg)
        refusal = attempt(ready.policy, _install_rx, ready, negotiated, keys.rx)
        if refusal is None:
            _install_tx(ready, keys.tx)
    except (KtlsError, OSError):
        _give_up(ready.sock)
        ready.engine.release()
        raise
    return refusal


def _refuse(refusal: KtlsUnavailable) -> None:
    raise refusal


def _install_rx(ready: Ready, negotiated: Negotiated, keys: TrafficKeys) -> None:
    """Do everything that may still fail without consequences, and the first key last."""
    if (refusal := suite_refusal(negotiated.suite, ready.policy)) is not None:
        raise refusal
    if negotiated.max_fragment_length is not None:
        ulp.limit_payload(ready.sock, negotiated.max_fragment_length)
    # A low-water mark above the queued bytes keeps the kernel's record parser asleep.
    ready.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    ulp.install(ready.sock, Direction.RX, keys)


def _install_tx(ready: Ready, keys: TrafficKeys) -> None:
    try:
        ulp.install(ready.sock, Direction.TX, keys)
    except KtlsError as exc:
        raise KtlsCommitError(
            exc.step, exc.errno, "the kernel took RX but not TX", hint=_REPORT
        ) from exc


def _start_relay(
    ready: Ready, negotiated: Negotiated, keys: Keys | None, refusal: KtlsUnavailable
) -> Handoff:
    reason = Reason(refusal.code, str(refusal), refusal.hint)
    _log.debug("relayed: %s: %s", reason.code, reason.sentence)
    keep = ready.slot.keep if ready.slot is not None else None
    tunnel: Tunnel | KeyedTunnel
    if not ready.engine.is_remote:
        tunnel = Tunnel(ready.engine, time.monotonic)
    elif keys is not None:
        tunnel = keyed_tunnel.KeyedTunnel(negotiated, keys, time.monotonic)
    if ready.is_inline:
        inline = InlineRelay(ready.sock, tunnel, keep)
        relayed(reason.code)
        return Handoff(inline, Offload.RELAY, reason, negotiated, None, inline)
    timeout = ready.sock.gettimeout()
    try:
        relay = Relay(ready.sock, tunnel, keep)
        program_end = relay.start()
    except (OSError, RuntimeError, MemoryError) as exc:
        _give_up(ready.sock)
        tunnel.release()
        if isinstance(exc, OSError) and exc.errno not in SHORTAGES:
            raise
        count(Event.SHORTAGE)
        raise ResourceError(exc, "the connection cannot be relayed") from exc
    program_end.settimeout(timeout)
    relayed(reason.code)
    return Handoff(program_end, Offload.RELAY, reason, negotiated, None, relay)


def _give_up(sock: socket.socket) -> None:
    """End a connection after its handshake, with FIN and no close_notify.

    The failure is ours, so it is no clean end. It does not wait for the peer; but data that has
    already come is received, since closing with unread data would reset the connection.
    """
    left = PARTING_BYTES
    with contextlib.suppress(OSError):
        sock.settimeout(0)
        sock.shutdown(socket.SHUT_WR)
        while left > 0 and (received := sock.recv(left)):
            left -= len(received)
