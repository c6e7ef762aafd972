"""Tests of session."""

from __future__ import annotations

import itertools
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import (
    AlertDescription,
    CipherSuite,
    ContentType,
    HandshakeType,
    ProtocolVersion,
)
from tlsify.errors import (
    HandshakeError,
    KeyUpdateRefused,
    PeerAlert,
    PeerMisbehaved,
    TlsifyError,
)
from tlsify.keys import Direction
from tlsify.tls.messages import (
    MAX_TICKET_MESSAGE,
    KeyUpdateRequest,
    NewSessionTicket,
    encode_key_update,
)
from tlsify.tls.ration import MOST
from tlsify.tls.schedule import next_secret, traffic_keys
from tlsify.tls.session import (
    Action,
    Fail,
    InstallKeys,
    PeerClosed,
    SendRecord,
    Session,
    StoreTicket,
    UpdateKeys,
)

TLS12, TLS13 = ProtocolVersion.TLSv1_2, ProtocolVersion.TLSv1_3
Role: TypeAlias = tuple[ProtocolVersion, bool]
ROLES: list[Role] = list(itertools.product(ProtocolVersion, (True, False)))
TICKET_BODY = bytes(8) + b"\x01n" + b"\x00\x01t" + b"\x00\x00"
STORE = StoreTicket(
    NewSessionTicket(0, b"n", b"t"), b"\x04" + len(TICKET_BODY).to_bytes(3, "big") + TICKET_BODY
)
DECLINE = SendRecord(ContentType.alert, b"\x01\x64")


def _session(role: Role) -> Session:
    suite = next(suite for suite in CipherSuite if suite.version is role[0])
    return Session(suite, role[1])


def _rekeyable(*, is_client: bool = True) -> Session:
    return Session(
        CipherSuite.TLS_AES_128_GCM_SHA256,
        is_client,
        can_rekey=True,
        tx_secret=bytearray(b"t" * 32),
        rx_secret=bytearray(b"r" * 32),
    )


def _message(msg_type: int, body: bytes = b"") -> bytes:
    return bytes([msg_type]) + len(body).to_bytes(3, "big") + body


def _failure(actions: list[Action]) -> HandshakeError:
    """Return the error of actions that have to end with one."""
    assert actions
    last = actions[-1]
    assert isinstance(last, Fail)
    assert not any(isinstance(action, Fail) for action in actions[:-1])
    return last.error


def _refusal(actions: list[Action], alert: AlertDescription) -> None:
    error = _failure(actions)
    assert error.alert is alert
    assert not isinstance(error, PeerAlert)


# -- records


@pytest.mark.parametrize("role", ROLES)
@given(content_type=st.integers(0, 255), payload=st.binary(max_size=40))
def test_any_record(role: Role, content_type: int, payload: bytes) -> None:
    """Every content type and payload has an outcome, and never an exception."""
    if content_type == ContentType.application_data:
        payload = b""
    actions = _session(role).receive(content_type, payload)
    if content_type not in Session.TRANSITIONS[role[0]]:
        _refusal(actions, AlertDescription.unexpected_message)
    if content_type == ContentType.alert and len(payload) != 2:
        _refusal(actions, AlertDescription.unexpected_message)


@pytest.mark.parametrize("role", ROLES)
@given(records=st.lists(st.tuples(st.sampled_from([21, 22]), st.binary(max_size=12)), max_size=6))
def test_any_records(role: Role, records: list[tuple[int, bytes]]) -> None:
    """No sequence of control records raises."""
    session = _session(role)
    for content_type, payload in records:
        actions = session.receive(content_type, payload)
        if actions and isinstance(actions[-1], Fail):
            return


@pytest.mark.parametrize("content_type", [0, 20, 24, 255])
@pytest.mark.parametrize("role", ROLES)
def test_record_of_another_type(role: Role, content_type: int) -> None:
    """Whatever is neither alert nor handshake is an unexpected_message."""
    _refusal(_session(role).receive(content_type, b"\x01"), AlertDescription.unexpected_message)


# -- alerts


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("role", ROLES)
def test_close_notify(role: Role, level: int) -> None:
    """close_notify ends the receiving direction in good order, whatever its level."""
    session = _session(role)
    assert not session.peer_closed
    assert session.receive(ContentType.alert, bytes([level, 0])) == [PeerClosed()]
    assert session.peer_closed


@pytest.mark.parametrize("role", ROLES)
@given(level=st.integers(0, 255), description=st.integers(1, 255))
def test_any_alert(role: Role, level: int, description: int) -> None:
    """TLS 1.3 ignores user_canceled only, TLS 1.2 warnings; the rest ends it, unanswered.

    In TLS 1.2 a level that there is not is no alert.
    """
    session = _session(role)
    actions = session.receive(ContentType.alert, bytes([level, description]))
    version = role[0]
    ignored = description == AlertDescription.user_canceled if version is TLS13 else level == 1
    assert not session.peer_closed
    if version is TLS12 and level not in {1, 2}:
        _refusal(actions, AlertDescription.illegal_parameter)
    elif ignored:
        assert actions == []
    else:
        error = _failure(actions)
        assert isinstance(error, PeerAlert)
        assert error.alert == AlertDescription.known(description)


# -- handshake messages


def _is_row(role: Role, msg_type: int) -> bool:
    return msg_type in Session.MESSAGES[role]


@pytest.mark.parametrize("role", ROLES)
@given(msg_type=st.integers(0, 255), body=st.binary(max_size=40))
def test_any_message(role: Role, msg_type: int, body: bytes) -> None:
    """Every message has an outcome; one that its receiver must not get is unexpected."""
    actions = _session(role).receive(ContentType.handshake, _message(msg_type, body))
    if not _is_row(role, msg_type):
        _refusal(actions, AlertDescription.unexpected_message)


@pytest.mark.parametrize("msg_type", HandshakeType)
@pytest.mark.parametrize("role", ROLES)
def test_which_messages_each_side_takes(role: Role, msg_type: HandshakeType) -> None:
    """After the handshake only these may come (RFC 8446 4.6; RFC 5246 7.4.1)."""
    expected = {
        (TLS13, True): {HandshakeType.new_session_ticket, HandshakeType.key_update},
        (TLS13, False): {HandshakeType.key_update},
        (TLS12, True): {HandshakeType.hello_request},
        (TLS12, False): {HandshakeType.client_hello},
    }[role]
    assert _is_row(role, msg_type) == (msg_type in expected)


def test_ticket() -> None:
    """A client stores a ticket, or two in one record, in order."""
    session = _session((TLS13, True))
    ticket = _message(HandshakeType.new_session_ticket, TICKET_BODY)
    assert session.receive(ContentType.handshake, ticket) == [STORE]
    assert session.receive(ContentType.handshake, ticket * 2) == [STORE, STORE]


def test_ticket_to_a_server() -> None:
    """A server has no use for tickets."""
    ticket = _message(HandshakeType.new_session_ticket, TICKET_BODY)
    actions = _session((TLS13, False)).receive(ContentType.handshake, ticket)
    _refusal(actions, AlertDescription.unexpected_message)


def test_malformed_ticket() -> None:
    """A ticket that does not parse ends the connection."""
    ticket = _message(HandshakeType.new_session_ticket, TICKET_BODY[:-1])
    actions = _session((TLS13, True)).receive(ContentType.handshake, ticket)
    _refusal(actions, AlertDescription.decode_error)


def test_ticket_followed_by_nonsense() -> None:
    """What came in good order is done before the connection ends."""
    payload = _message(HandshakeType.new_session_ticket, TICKET_BODY) + _message(99)
    actions = _session((TLS13, True)).receive(ContentType.handshake, payload)
    assert actions[0] == STORE
    _refusal(actions, AlertDescription.unexpected_message)


@pytest.mark.parametrize("request_update", KeyUpdateRequest)
@pytest.mark.parametrize("is_client", [True, False])
def test_key_update_without_rekey(*, is_client: bool, request_update: KeyUpdateRequest) -> None:
    """A KeyUpdate cannot be followed: internal_error, and the hint names the way round."""
    session = _session((TLS13, is_client))
    error = _failure(session.receive(ContentType.handshake, encode_key_update(request_update)))
    assert error.alert is AlertDescription.internal_error
    assert isinstance(error, KeyUpdateRefused)
    assert "KeyUpdate" in str(error)
    assert "--ktls-rekey=require" in error.hint


@pytest.mark.parametrize("is_client", [True, False])
def test_key_update(*, is_client: bool) -> None:
    """The receiving key changes at once; the sending key too if the peer asks for it."""
    session = _rekeyable(is_client=is_client)
    update = encode_key_update(KeyUpdateRequest.update_not_requested)
    assert session.receive(ContentType.handshake, update) == [InstallKeys(Direction.RX)]
    due = session.update_due
    assert not due
    update = encode_key_update(KeyUpdateRequest.update_requested)
    assert session.receive(ContentType.handshake, update) == [
        InstallKeys(Direction.RX),
        UpdateKeys(KeyUpdateRequest.update_not_requested),
    ]
    due = session.update_due
    assert due
    session.enter(Direction.TX, session.next_generation(Direction.TX))
    due = session.update_due
    assert not due


@pytest.mark.parametrize("direction", Direction)
def test_next_generation(direction: Direction) -> None:
    """Each direction has its own generations (RFC 8446 7.2); the old secret is gone."""
    session = _rekeyable()
    secret = session.tx_secret if direction is Direction.TX else session.rx_secret
    other = session.rx_secret if direction is Direction.TX else session.tx_secret
    expected, untouched = bytearray(secret), bytes(other)
    for _ in range(3):
        expected = next_secret(session.suite, expected)
        generation, right = (
            session.next_generation(direction),
            traffic_keys(session.suite, expected),
        )
        assert secret != expected
        session.enter(direction, generation)
        keys = generation.keys
        assert (keys.key, keys.iv, keys.seq) == (right.key, right.iv, 0)
        assert bytes(secret) == expected
        generation.wipe()
        assert not any(generation.secret + generation.keys.key)
        assert bytes(secret) == expected
    assert bytes(other) == untouched


def test_key_update_behind_a_ticket() -> None:
    """The last message of a record may be a KeyUpdate, whatever is in front of it."""
    session = _rekeyable()
    payload = STORE.message + encode_key_update(KeyUpdateRequest.update_not_requested)
    assert session.receive(ContentType.handshake, payload) == [STORE, InstallKeys(Direction.RX)]


def test_key_update_in_fragments() -> None:
    """Nothing changes before the last byte of it."""
    session = _rekeyable()
    update = encode_key_update(KeyUpdateRequest.update_not_requested)
    for index in range(4):
        assert session.receive(ContentType.handshake, update[index : index + 1]) == []
    assert session.receive(ContentType.handshake, update[4:]) == [InstallKeys(Direction.RX)]


def test_wipe() -> None:
    """Without its secrets a session follows no KeyUpdate, and shows none anywhere."""
    session = _rekeyable()
    secrets = bytes(session.tx_secret), bytes(session.rx_secret)
    assert not any(
        secret.hex() in repr(session) or str(secret) in repr(session) for secret in secrets
    )
    session.wipe()
    assert not any(session.tx_secret + session.rx_secret)
    update = encode_key_update(KeyUpdateRequest.update_not_requested)
    assert isinstance(_failure(session.receive(22, update)), KeyUpdateRefused)


@pytest.mark.parametrize(
    ("payload", "alert"),
    [
        (_message(24, b""), AlertDescription.decode_error),
        (_message(24, b"\0\0"), AlertDescription.decode_error),
        (_message(24, b"\2"), AlertDescription.illegal_parameter),
        (_message(24, b"\0") + b"\x04", AlertDescription.unexpected_message),
        (_message(24, b"\0") * 2, AlertDescription.unexpected_message),
    ],
)
def test_key_update_that_is_wrong(payload: bytes, alert: AlertDescription) -> None:
    """A malformed KeyUpdate, or one that shares its record, is the peer's fault."""
    _refusal(_session((TLS13, True)).receive(ContentType.handshake, payload), alert)


@pytest.mark.parametrize("is_client", [True, False])
def test_key_update_in_tls12(*, is_client: bool) -> None:
    """TLS 1.2 has no KeyUpdate."""
    payload = encode_key_update(KeyUpdateRequest.update_not_requested)
    actions = _session((TLS12, is_client)).receive(ContentType.handshake, payload)
    _refusal(actions, AlertDescription.unexpected_message)


@pytest.mark.parametrize(
    ("is_client", "payload"),
    [
        (True, _message(HandshakeType.hello_request)),
        (False, _message(HandshakeType.client_hello, bytes(50))),
    ],
)
def test_renegotiation(*, is_client: bool, payload: bytes) -> None:
    """Renegotiation is declined with a warning, and the connection goes on."""
    session = _session((TLS12, is_client))
    assert session.receive(ContentType.handshake, payload) == [DECLINE]
    assert session.receive(ContentType.alert, b"\x01\x00") == [PeerClosed()]


@given(st.data())
def test_message_in_fragments(data: st.DataObject) -> None:
    """A message takes effect with its last byte, however it is cut."""
    session = _session((TLS13, True))
    rest = _message(HandshakeType.new_session_ticket, TICKET_BODY)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        actions = session.receive(ContentType.handshake, rest[:size])
        rest = rest[size:]
        assert actions == ([] if rest else [STORE])


@pytest.mark.parametrize("content_type", [20, 23, 24])
def test_another_record_inside_a_message(content_type: int) -> None:
    """A fragmented message is not interrupted (RFC 8446 5.1)."""
    session = _session((TLS13, True))
    assert session.receive(ContentType.handshake, b"\x04\x00") == []
    payload = b"" if content_type == ContentType.application_data else b"\x01\x00"
    actions = session.receive(content_type, payload)
    _refusal(actions, AlertDescription.unexpected_message)
    assert not session.peer_closed


def test_alert_inside_a_message() -> None:
    """A peer may fail, or end, in the midst of a message: what it says then counts."""
    session = _session((TLS13, True))
    ticket = _message(HandshakeType.new_session_ticket, TICKET_BODY)
    assert session.receive(ContentType.handshake, ticket[:9]) == []
    assert session.receive(ContentType.alert, bytes([1, AlertDescription.user_canceled])) == []
    assert session.receive(ContentType.handshake, ticket[9:]) == [STORE]
    assert session.receive(ContentType.handshake, ticket[:9]) == []
    assert isinstance(_failure(session.receive(ContentType.alert, b"\x02\x50")), PeerAlert)
    assert session.receive(ContentType.alert, b"\x01\x00") == [PeerClosed()]


@pytest.mark.parametrize("role", ROLES)
def test_message_that_is_refused_by_its_first_byte(role: Role) -> None:
    """Nothing is waited for that would be refused when it is there."""
    actions = _session(role).receive(ContentType.handshake, b"\x63")
    _refusal(actions, AlertDescription.unexpected_message)


def test_hello_request_with_a_body() -> None:
    """It has none (RFC 5246 7.4.1.1)."""
    actions = _session((TLS12, True)).receive(ContentType.handshake, _message(0, b"x"))
    _refusal(actions, AlertDescription.decode_error)


@pytest.mark.parametrize("begun", [b"", b"\x04"])
@pytest.mark.parametrize("role", ROLES)
def test_empty_handshake_record(role: Role, begun: bytes) -> None:
    """A handshake record without content is refused, also inside a message."""
    session = _session(role)
    session.unfinished += begun
    actions = session.receive(ContentType.handshake, b"")
    _refusal(actions, AlertDescription.unexpected_message)


def test_message_that_is_too_long() -> None:
    """An announced length beyond the limit is refused by the header alone."""
    header = b"\x04" + (MAX_TICKET_MESSAGE + 1).to_bytes(3, "big")
    actions = _session((TLS13, True)).receive(ContentType.handshake, header)
    _refusal(actions, AlertDescription.illegal_parameter)


def test_longest_message() -> None:
    """A message of exactly the limit is collected, and judged when it is whole."""
    session = _session((TLS13, True))
    message = _message(4, bytes(MAX_TICKET_MESSAGE))
    chunks = [message[i : i + 2**14] for i in range(0, len(message), 2**14)]
    for chunk in chunks[:-1]:
        assert session.receive(ContentType.handshake, chunk) == []
    actions = session.receive(ContentType.handshake, chunks[-1])
    _refusal(actions, AlertDescription.decode_error)


# -- bounds


@pytest.mark.parametrize("version", ProtocolVersion)
def test_budget(version: ProtocolVersion) -> None:
    """A peer that sends nothing but ignorable records is stopped after the budget."""
    session = _session((version, True))
    ignorable = bytes([1, AlertDescription.user_canceled])
    for _ in range(MOST):
        assert session.receive(ContentType.alert, ignorable) == []
    _refusal(session.receive(ContentType.alert, ignorable), AlertDescription.unexpected_message)


def test_budget_of_fragments() -> None:
    """Fragments of one byte count like any other control record."""
    session = _session((TLS13, True))
    message = _message(4, bytes(2 * MOST))
    for index in range(MOST):
        assert session.receive(ContentType.handshake, message[index : index + 1]) == []
    actions = session.receive(ContentType.handshake, message[MOST:][:1])
    _refusal(actions, AlertDescription.unexpected_message)


def test_many_requests_in_one_record() -> None:
    """One record of HelloRequests does not make us send as many alerts as it has messages."""
    session = _session((TLS12, True))
    payload = _message(HandshakeType.hello_request) * 4096
    actions = session.receive(ContentType.handshake, payload)
    assert len(actions) <= MOST + 1


def test_storm_of_key_updates() -> None:
    """Key updates with nothing between them end the connection."""
    session = _rekeyable()
    update = encode_key_update(KeyUpdateRequest.update_requested)
    for _ in range(MOST // 2):  # each is answered
        assert session.receive(ContentType.handshake, update)[0] == InstallKeys(Direction.RX)
        session.enter(Direction.RX, session.next_generation(Direction.RX))
    _refusal(session.receive(ContentType.handshake, update), AlertDescription.unexpected_message)


@pytest.mark.parametrize("role", ROLES)
def test_storm_of_empty_data(role: Role) -> None:
    """Empty data records are nothing, and too many of them an end."""
    session = _session(role)
    for _ in range(MOST):
        assert session.receive(ContentType.application_data, b"") == []
    actions = session.receive(ContentType.application_data, b"")
    _refusal(actions, AlertDescription.unexpected_message)


def test_data_is_not_the_sessions() -> None:
    """Data must go to the caller: a session that gets it would lose it."""
    with pytest.raises(TlsifyError, match="data"):
        _session((TLS13, True)).receive(ContentType.application_data, b"data")


def test_every_version_has_its_tables() -> None:
    """No protocol version or role lacks its rows."""
    assert set(Session.TRANSITIONS) == set(ProtocolVersion)
    assert set(Session.MESSAGES) == set(ROLES)


def test_refusals_are_the_peers_fault() -> None:
    """What the peer did wrong is PeerMisbehaved."""
    actions = _session((TLS13, True)).receive(ContentType.change_cipher_spec, b"")
    assert isinstance(_failure(actions), PeerMisbehaved)
