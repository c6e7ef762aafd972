"""Tests of messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import AlertDescription, AlertLevel
from tlsify.errors import PeerMisbehaved
from tlsify.tls.messages import (
    Alert,
    HandshakeMessage,
    KeyUpdateRequest,
    NewSessionTicket,
    decode_alert,
    decode_handshake,
    decode_key_update,
    decode_new_session_ticket,
    encode_alert,
    encode_key_update,
)

LIMIT = 200
MESSAGES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=LIMIT)), max_size=5)
WARNINGS = {
    AlertDescription.close_notify,
    AlertDescription.user_canceled,
    AlertDescription.no_renegotiation,
}


def _message(msg_type: int, body: bytes) -> bytes:
    return bytes([msg_type]) + len(body).to_bytes(3, "big") + body


def _ticket(ticket: NewSessionTicket, extensions: bytes = b"") -> bytes:
    return (
        ticket.lifetime.to_bytes(4, "big")
        + b"\x12\x34\x56\x78"
        + bytes([len(ticket.nonce)])
        + ticket.nonce
        + len(ticket.ticket).to_bytes(2, "big")
        + ticket.ticket
        + len(extensions).to_bytes(2, "big")
        + extensions
    )


@pytest.mark.parametrize("description", AlertDescription)
def test_alert_encoded_and_decoded(description: AlertDescription) -> None:
    """Every alert survives, and only those that end nothing are warnings."""
    level = AlertLevel.warning if description in WARNINGS else AlertLevel.fatal
    assert decode_alert(encode_alert(description)) == Alert(level, description)


@given(st.binary(max_size=6))
def test_any_alert(payload: bytes) -> None:
    """Two bytes are an alert; any other number of them is not (RFC 8446 5.1, 5.4)."""
    try:
        alert = decode_alert(payload)
    except PeerMisbehaved as error:
        assert len(payload) != 2
        assert error.alert is AlertDescription.unexpected_message
    else:
        assert bytes([alert.level, alert.description]) == payload


@given(MESSAGES, st.data())
def test_messages_cut_anywhere(messages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """However messages are spread over records, the same messages come out in order."""
    rest = b"".join(_message(*message) for message in messages)
    buffer, found = bytearray(), []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        buffer += rest[:size]
        rest = rest[size:]
        while (message := decode_handshake(buffer, limit=LIMIT)) is not None:
            found.append(message)
    assert found == [HandshakeMessage(*message) for message in messages]
    assert not buffer


@given(st.binary(max_size=64))
def test_arbitrary_handshake_bytes(data: bytes) -> None:
    """Arbitrary bytes raise only PeerMisbehaved, and every message shortens the buffer."""
    buffer = bytearray(data)
    try:
        before = len(buffer)
        while decode_handshake(buffer, limit=LIMIT) is not None:
            assert len(buffer) < before
            before = len(buffer)
    except PeerMisbehaved as error:
        assert error.alert is AlertDescription.illegal_parameter


def test_message_at_the_limit() -> None:
    """The longest body passes; one byte more is refused by its header alone."""
    buffer = bytearray(_message(4, bytes(LIMIT)))
    assert decode_handshake(buffer, limit=LIMIT) == HandshakeMessage(4, bytes(LIMIT))
    with pytest.raises(PeerMisbehaved, match=f"exceeds {LIMIT}"):
        decode_handshake(bytearray(_message(4, bytes(LIMIT + 1))[:4]), limit=LIMIT)


@pytest.mark.parametrize("request_update", KeyUpdateRequest)
def test_key_update_encoded_and_decoded(request_update: KeyUpdateRequest) -> None:
    """Both kinds of KeyUpdate survive."""
    buffer = bytearray(encode_key_update(request_update))
    message = decode_handshake(buffer, limit=1)
    assert message is not None
    assert message.msg_type == 24
    assert decode_key_update(message.body) is request_update


@given(st.binary(max_size=4))
def test_any_key_update(body: bytes) -> None:
    """Another length is a decode_error, another value an illegal_parameter (RFC 8446 4.6.3)."""
    try:
        assert decode_key_update(body) == body[0]
    except PeerMisbehaved as error:
        expected = "decode_error" if len(body) != 1 else "illegal_parameter"
        assert error.alert is AlertDescription[expected]
        assert body not in {b"\0", b"\1"}


@given(
    st.builds(
        NewSessionTicket,
        lifetime=st.integers(0, 604800),
        nonce=st.binary(max_size=255),
        ticket=st.binary(min_size=1, max_size=300),
    ),
    st.binary(max_size=40),
)
def test_ticket_encoded_and_decoded(ticket: NewSessionTicket, extensions: bytes) -> None:
    """A ticket survives whatever extensions it has, and every cut of it is a decode_error."""
    body = _ticket(ticket, extensions)
    assert decode_new_session_ticket(body) == ticket
    for cut in {0, 3, 8, 9, len(body) // 2, len(body) - 1}:
        with pytest.raises(PeerMisbehaved) as caught:
            decode_new_session_ticket(body[:cut])
        assert caught.value.alert is AlertDescription.decode_error


@given(st.binary(max_size=64))
def test_arbitrary_ticket(body: bytes) -> None:
    """Arbitrary bytes raise only PeerMisbehaved; what is accepted was inside the body."""
    try:
        ticket = decode_new_session_ticket(body)
    except PeerMisbehaved as error:
        assert error.alert is AlertDescription.decode_error
    else:
        assert ticket.ticket
        assert ticket.ticket in body


@pytest.mark.parametrize("end", [b"", b"\0"])
def test_ticket_followed_by_something(end: bytes) -> None:
    """A ticket ends where its extensions end."""
    body = _ticket(NewSessionTicket(1, b"n", b"t")) + end
    if end:
        with pytest.raises(PeerMisbehaved):
            decode_new_session_ticket(body)
    else:
        assert decode_new_session_ticket(body).ticket == b"t"


def test_empty_ticket() -> None:
    """A ticket of no bytes is malformed (RFC 8446 4.6.1)."""
    with pytest.raises(PeerMisbehaved):
        decode_new_session_ticket(_ticket(NewSessionTicket(1, b"", b"")))


@pytest.mark.parametrize(
    ("said", "taken"), [(0, 0), (604800, 604800), (604801, 604800), (2**32 - 1, 604800)]
)
def test_lifetime_beyond_what_is_allowed(said: int, taken: int) -> None:
    """A server that names more than seven days is not believed (RFC 8446 4.6.1)."""
    body = _ticket(NewSessionTicket(said, b"n", b"t"))
    assert decode_new_session_ticket(body).lifetime == taken
