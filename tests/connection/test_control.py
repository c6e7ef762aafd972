"""Tests of control: what a session asks for, done on a socket whose records are a script."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import CLOSE_NOTIFY, ScriptedSocket, new_session_ticket
from tlsify.codepoints import AlertDescription, CipherSuite, ContentType
from tlsify.connection.control import Channel
from tlsify.errors import HandshakeError, PeerAlert, PeerMisbehaved, TlsifyError, Truncated
from tlsify.ktls import uapi
from tlsify.ktls.ulp import Record
from tlsify.tls.explain import truncated
from tlsify.tls.session import Fail, PeerClosed, SendRecord, Session

if TYPE_CHECKING:
    from collections.abc import Callable

DATA, ALERT, HANDSHAKE = (
    ContentType.application_data,
    ContentType.alert,
    ContentType.handshake,
)


def session(*, is_client: bool = True, version: int = 0x0304) -> Session:
    """Make one that has just been handed over."""
    suite = next(s for s in CipherSuite if s.version == version)
    return Session(suite, is_client)


def receive(sock: socket.socket, state: Session, size: int = 100) -> bytes:
    """Receive both ways of which one is drawn by ``receive_into``'s test."""
    return Channel(sock, state).receive(size)


def receive_into(sock: socket.socket, state: Session, size: int = 100) -> bytes:
    """Receive by way of a buffer."""
    buffer = bytearray(size)
    return bytes(buffer[: Channel(sock, state).receive_into(memoryview(buffer))])


both_ways = pytest.mark.parametrize("take", [receive, receive_into])


@both_ways
def test_control_records_in_front(scripted: Callable[..., ScriptedSocket], take: Any) -> None:
    """They are served until there is data; an empty data record is none."""
    sock = scripted(
        (HANDSHAKE, new_session_ticket()),
        (DATA, b""),
        (ALERT, bytes([1, AlertDescription.user_canceled])),
        (DATA, b"data"),
    )
    assert take(sock, session()) == b"data"
    assert not sock.sent


@both_ways
@pytest.mark.parametrize("size", [1, 5, 6])
def test_control_record_larger_than_the_buffer(
    scripted: Callable[..., ScriptedSocket], take: Any, size: int
) -> None:
    """It is collected to its end before the session sees it."""
    sock = scripted((HANDSHAKE, new_session_ticket(b"t" * 500)), (DATA, b"x"))
    assert take(sock, session(), size) == b"x"


@both_ways
def test_close_notify(scripted: Callable[..., ScriptedSocket], take: Any) -> None:
    """It is the end of the stream, for good: nothing behind it is looked at."""
    state = session()
    sock = scripted(CLOSE_NOTIFY, (DATA, b"too late"))
    assert take(sock, state) == b""
    assert take(sock, state) == b""
    assert len(sock.script) == 1


@both_ways
def test_end_of_stream(scripted: Callable[..., ScriptedSocket], take: Any) -> None:
    """Without close_notify it is truncation."""
    with pytest.raises(Truncated):
        take(scripted(None), session())


@both_ways
def test_nothing_there(scripted: Callable[..., ScriptedSocket], take: Any) -> None:
    """BlockingIOError passes through, also behind a served record."""
    with pytest.raises(BlockingIOError):
        take(scripted((HANDSHAKE, new_session_ticket())), session())


@both_ways
@pytest.mark.parametrize(
    ("number", "alert"),
    [
        (errno.EBADMSG, AlertDescription.bad_record_mac),
        (errno.EMSGSIZE, AlertDescription.record_overflow),
        (errno.EINVAL, AlertDescription.protocol_version),
    ],
)
def test_receive_error(
    scripted: Callable[..., ScriptedSocket], take: Any, number: int, alert: AlertDescription
) -> None:
    """The pending error is read, the alert sent, the direction ended, the error raised."""
    sock = scripted((DATA, b"data"), number)
    state = session()
    assert take(sock, state) == b"data"
    with pytest.raises(PeerMisbehaved) as raised:
        take(sock, state)
    assert raised.value.alert is alert
    assert sock.error_read
    assert sock.sent == [(ALERT, bytes([2, alert]))]
    assert sock.shut == [socket.SHUT_WR]


@both_ways
def test_error_inside_a_control_record(scripted: Callable[..., ScriptedSocket], take: Any) -> None:
    """A fault in what should complete a record is answered like any other."""
    sock = scripted((HANDSHAKE, new_session_ticket()))
    recvmsg = sock.recvmsg
    calls = iter([recvmsg])

    def once(*args: Any) -> Any:
        for call in calls:
            return call(*args)
        raise OSError(errno.EBADMSG, "")

    sock.recvmsg = once  # type: ignore[method-assign]
    with pytest.raises(PeerMisbehaved):
        take(sock, session(), 3)
    assert sock.sent == [(ALERT, bytes([2, AlertDescription.bad_record_mac]))]


def test_end_inside_a_control_record(scripted: Callable[..., ScriptedSocket]) -> None:
    """What there is of it is judged: a cut alert is malformed."""
    sock = scripted(None)
    with pytest.raises(PeerMisbehaved):
        Channel(sock, session()).serve(Record(ALERT, b"\2", complete=False))


@pytest.mark.parametrize("number", [uapi.EKEYEXPIRED, errno.ECONNRESET])
def test_other_errors(scripted: Callable[..., ScriptedSocket], number: int) -> None:
    """EKEYEXPIRED is our own bug; what a TCP socket may say is passed on."""
    expected: type[Exception] = TlsifyError if number == uapi.EKEYEXPIRED else ConnectionResetError
    sock = scripted(number)
    with pytest.raises(expected):
        Channel(sock, session()).receive(10)
    assert not sock.sent


def test_peer_alert_is_not_answered(scripted: Callable[..., ScriptedSocket]) -> None:
    """RFC 8446 6.2: both sides just close."""
    sock = scripted((ALERT, bytes([2, AlertDescription.internal_error])))
    with pytest.raises(PeerAlert):
        Channel(sock, session()).receive(10)
    assert not sock.sent
    assert sock.shut == [socket.SHUT_WR]


def test_key_update(scripted: Callable[..., ScriptedSocket]) -> None:
    """It ends the connection, with an alert and a reason."""
    sock = scripted((HANDSHAKE, b"\x18\0\0\1\0"))
    with pytest.raises(HandshakeError, match="KeyUpdate"):
        Channel(sock, session()).receive(10)
    assert sock.sent == [(ALERT, bytes([2, AlertDescription.internal_error]))]


def test_renegotiation(scripted: Callable[..., ScriptedSocket]) -> None:
    """HelloRequest is declined, and the data behind it is given."""
    sock = scripted((HANDSHAKE, bytes(4)), (DATA, b"data"))
    assert Channel(sock, session(version=0x0303)).receive(10) == b"data"
    assert sock.sent == [(ALERT, bytes([1, AlertDescription.no_renegotiation]))]


def test_service(scripted: Callable[..., ScriptedSocket]) -> None:
    """One control record a call; data is left alone, and the end is told twice."""
    state = session()
    sock = scripted((HANDSHAKE, new_session_ticket()), (DATA, b"data"), CLOSE_NOTIFY)
    assert Channel(sock, state).service()
    assert Channel(sock, state).service()
    assert sock.script[0] == (DATA, b"data")
    assert Channel(sock, state).receive(10) == b"data"
    assert not Channel(sock, state).service()
    sock.script.append(None)
    assert not Channel(sock, state).service()


@pytest.mark.parametrize(
    ("upcoming", "error"), [(None, Truncated), (errno.EBADMSG, PeerMisbehaved)]
)
def test_service_of_a_broken_connection(
    scripted: Callable[..., ScriptedSocket], upcoming: int | None, error: type[Exception]
) -> None:
    """It raises as receiving does."""
    with pytest.raises(error):
        Channel(scripted(upcoming), session()).service()


def test_actions_in_order(scripted: Callable[..., ScriptedSocket]) -> None:
    """Sending, doing nothing, failing: as the session lists them."""
    sock = scripted()
    error = PeerMisbehaved("wrong", alert=AlertDescription.unexpected_message)
    with pytest.raises(PeerMisbehaved):
        Channel(sock, session()).perform([SendRecord(*CLOSE_NOTIFY), PeerClosed(), Fail(error)])
    assert sock.sent == [CLOSE_NOTIFY, (ALERT, bytes([2, AlertDescription.unexpected_message]))]


def test_error_without_alert(scripted: Callable[..., ScriptedSocket]) -> None:
    """Truncation has nothing to answer."""
    sock = scripted()
    with pytest.raises(Truncated):
        Channel(sock, session()).fail(truncated())
    assert not sock.sent
    assert sock.shut == [socket.SHUT_WR]


def peek_into(sock: socket.socket, state: Session) -> bytes:
    """Peek by way of a buffer."""
    buffer = bytearray(2)
    return bytes(buffer[: Channel(sock, state).receive_into(memoryview(buffer), socket.MSG_PEEK)])


@pytest.mark.parametrize("into", [False, True])
def test_looking_ahead(scripted: Callable[..., ScriptedSocket], *, into: bool) -> None:
    """MSG_PEEK leaves data where it is, but takes the control records in front of it."""
    sock = scripted((HANDSHAKE, new_session_ticket()), (DATA, b"ab"))
    state = session()
    for _ in range(2):
        seen = peek_into(sock, state) if into else Channel(sock, state).receive(2, socket.MSG_PEEK)
        assert seen == b"ab"
    assert list(sock.script) == [(DATA, b"ab")]


@both_ways
def test_reading_on_after_a_failure(scripted: Callable[..., ScriptedSocket], take: Any) -> None:
    """The same error comes again, and the kernel is not asked: it might never answer."""
    sock = scripted(errno.EMSGSIZE)
    state = session()
    for _ in range(2):
        with pytest.raises(PeerMisbehaved):
            take(sock, state)
    with pytest.raises(PeerMisbehaved):
        Channel(sock, state).service()
    assert len(sock.sent) == 1
