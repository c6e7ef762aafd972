"""Serve control records on a kTLS fd: perform a Session's actions."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, NoReturn

from tlsify.codepoints import AlertDescription, ContentType
from tlsify.errors import HandshakeError, PeerAlert, PeerMisbehaved, Truncated
from tlsify.ktls import ulp
from tlsify.tls.messages import encode_alert
from tlsify.tls.record import MAX_PLAINTEXT
from tlsify.tls.session import Action, Fail, PeerClosed, SendRecord, StoreTicket

if TYPE_CHECKING:
    from tlsify.tls.session import Session


def receive(sock: socket.socket, session: Session, size: int, flags: int = 0) -> bytes:
    """Receive data, serving whatever control records lie in front of it.

    Args:
        sock: keyed for RX.
        session: the descriptor's own.
        size: most bytes to give, at least 1.
        flags: as for ``recvmsg``.

    Returns:
        Data; empty once the peer has sent close_notify.

    Raises:
        Truncated: the stream ended without close_notify.
        HandshakeError: the peer ended the connection or has to be refused; it got its alert.
        OSError: as ``recv``; BlockingIOError if nothing is there.
    """
    _refuse_failed(session)
    while not session.peer_closed:
        try:
            record = ulp.recv_record(sock, size, flags)
        except PeerMisbehaved as error:
            fail(sock, session, error)
        if record is None:
            raise truncated()
        if record.content_type == ContentType.application_data:
            if record.payload:
                return record.payload
            continue
        if flags & socket.MSG_PEEK:
            # A control record is never the caller's to look at; take it for good.
            record = ulp.Record(record.content_type, b"", complete=False)
        serve(sock, session, record)
    return b""


def receive_into(sock: socket.socket, session: Session, buffer: memoryview, flags: int = 0) -> int:
    """Do as `receive`, into the caller's buffer; gives the number of bytes."""
    _refuse_failed(session)
    while not session.peer_closed:
        try:
            content_type, count, complete = ulp.recv_record_into(sock, buffer, flags)
        except PeerMisbehaved as error:
            fail(sock, session, error)
        if content_type is None:
            raise truncated()
        if content_type == ContentType.application_data:
            if count:
                return count
            continue
        if flags & socket.MSG_PEEK:
            count, complete = 0, False
        serve(sock, session, ulp.Record(content_type, bytes(buffer[:count]), complete))
    return 0


def _refuse_failed(session: Session) -> None:
    """A kernel whose record parser has stopped would let the next receive wait for ever."""
    if session.failure is not None:
        raise session.failure


def service(sock: socket.socket, session: Session, flags: int = 0) -> bool:
    """Serve the next record if it is a control record.

    Args:
        sock: keyed for RX.
        session: the descriptor's own.
        flags: as for ``recvmsg``.

    Returns:
        False once the peer has sent close_notify; True if it has not, be it that a control record
        was served or that data is next.

    Raises:
        As `receive`.
    """
    _refuse_failed(session)
    try:
        upcoming = ulp.recv_record(sock, 1, socket.MSG_PEEK | flags)
    except PeerMisbehaved as error:
        fail(sock, session, error)
    if upcoming is None and not session.peer_closed:
        raise truncated()
    if upcoming is not None and upcoming.content_type != ContentType.application_data:
        serve(sock, session, ulp.Record(upcoming.content_type, b"", complete=False))
    return not session.peer_closed


def serve(sock: socket.socket, session: Session, record: ulp.Record) -> None:
    """Deal with one control record, of which the first part, or nothing, has been received.

    Raises:
        HandshakeError: the connection is over; the peer got its alert.
    """
    payload, complete = record.payload, record.complete
    while not complete:
        # The rest of this record lies in the kernel: this cannot block.
        try:
            rest = ulp.recv_record(sock, MAX_PLAINTEXT)
        except PeerMisbehaved as error:
            fail(sock, session, error)
        if rest is None:
            break
        payload += rest.payload
        complete = rest.complete
    perform(sock, session, session.receive(record.content_type, payload))


def perform(sock: socket.socket, session: Session, actions: list[Action]) -> None:
    """Carry out what a session asks for, in order.

    Raises:
        HandshakeError: of a `Fail`; the peer got its alert.
    """
    for action in actions:
        match action:
            case SendRecord(content_type, payload):
                _send_if_possible(sock, content_type, payload)
            case Fail(error):
                fail(sock, session, error)
            case StoreTicket() | PeerClosed():
                # Tickets are kept only where the caller named a place for them.
                continue


def fail(sock: socket.socket, session: Session, error: HandshakeError) -> NoReturn:
    """End the connection: the alert that is due, then no more records.

    Raises:
        HandshakeError: the error itself, always.
    """
    session.failure = error
    if error.alert is not None and not isinstance(error, PeerAlert):
        _send_if_possible(sock, ContentType.alert, encode_alert(error.alert))
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    raise error


def send_close_notify(sock: socket.socket) -> None:
    """End the sending direction in good order, as far as the peer lets us.

    A full send buffer must not turn a close into a hang, so the alert is dropped if it does not
    fit; the peer then sees truncation, which is what a connection it does not read comes to.
    """
    alert = encode_alert(AlertDescription.close_notify)
    _send_if_possible(sock, ContentType.alert, alert)


def _send_if_possible(sock: socket.socket, content_type: ContentType, payload: bytes) -> None:
    with contextlib.suppress(OSError):
        ulp.send_record(sock, content_type, payload, socket.MSG_DONTWAIT)


def truncated() -> Truncated:
    """Build the error for an end of stream without close_notify (RFC 8446 6.1)."""
    return Truncated(
        "the connection ended without close_notify: what was received may be incomplete",
        hint="the peer, or somebody in between, cut the connection",
    )
