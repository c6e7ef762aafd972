"""Every other handshake message: HelloRequest and ClientHello, and what has no place any more."""

from __future__ import annotations

from tests.odd_peers.outcome import Outcome, in_order, refused
from tests.odd_peers.parts import data, handshake, handshakes, message
from tests.odd_peers.reasons import Reason
from tests.odd_peers.scenario import (
    CLIENT,
    CLOSE,
    SERVER,
    TLS12,
    TLS13,
    Carrier,
    Difference,
    Scenario,
)
from tests.odd_peers.steps import Looks, Reads, Says
from tlsify.codepoints import AlertDescription, HandshakeType

_A, _B = data(b"a"), data(b"b")
_UNEXPECTED = AlertDescription.unexpected_message
_DECLINED = "no_renegotiation"
_REQUEST = message(HandshakeType.hello_request)
# A random, no session, two suites, no compression, no extensions.
_HELLO = message(
    HandshakeType.client_hello,
    b"\x03\x03" + bytes(32) + b"\0" + b"\0\4\xc0\x2b\xc0\x2f" + b"\1\0" + b"\0\0",
)
_OF_VERSION = {
    TLS13: {HandshakeType.new_session_ticket, HandshakeType.key_update},
    TLS12: {
        HandshakeType.hello_request,
        HandshakeType.client_hello,
        HandshakeType.new_session_ticket,
        HandshakeType.key_update,
    },
}


def _declined(name: str, *payloads: bytes, times: int = 1, sample: bool = False) -> Scenario:
    return Scenario(
        name,
        (_A, *map(handshake, payloads), _B, *CLOSE),
        in_order().after(*[_DECLINED] * times),
        TLS12,
        CLIENT,
        sample=sample,
    )


_RENEGOTIATION = (
    _declined("HelloRequest", _REQUEST, sample=True),
    *(
        _declined(f"HelloRequest cut behind byte {place}", _REQUEST[:place], _REQUEST[place:])
        for place in range(1, len(_REQUEST))
    ),
    _declined("HelloRequest twice in one record", _REQUEST * 2, times=2),
    _declined("HelloRequest twice", _REQUEST, _REQUEST, times=2),
    Scenario(
        "a part of HelloRequest, and the program writes",
        (
            *(_A, Reads(1), handshake(_REQUEST[:2]), Looks(), Says(b"request ")),
            *(handshake(_REQUEST[2:]), _B, *CLOSE),
        ),
        Outcome(b"ab", "end", ("request ", _DECLINED, "farewell", "close_notify", "FIN")),
        TLS12,
        CLIENT,
    ),
    Scenario(
        "HelloRequest with a body",
        (_A, handshake(message(0, b"x")), _B),
        refused(AlertDescription.decode_error),
        TLS12,
        CLIENT,
        differs={
            Carrier.RELAY: Difference(Reason.LENGTH, refused(AlertDescription.illegal_parameter))
        },
    ),
    Scenario("HelloRequest", (_A, handshake(_REQUEST), _B), refused(_UNEXPECTED), TLS12, SERVER),
    Scenario(
        "ClientHello",
        (_A, handshake(_HELLO), _B, *CLOSE),
        in_order().after(_DECLINED),
        TLS12,
        SERVER,
        sample=True,
    ),
    Scenario(
        "ClientHello in two records",
        (_A, *handshakes(_HELLO, 20), _B, *CLOSE),
        in_order().after(_DECLINED),
        TLS12,
        SERVER,
    ),
    Scenario("ClientHello", (_A, handshake(_HELLO), _B), refused(_UNEXPECTED), TLS12, CLIENT),
)
_OTHERS = (
    *(
        Scenario(
            f"handshake message {each.name}",
            (_A, handshake(message(each, bytes(4))), _B),
            refused(_UNEXPECTED),
            versions,
        )
        for versions, known in _OF_VERSION.items()
        for each in HandshakeType
        if each not in known
    ),
    *(
        Scenario(
            f"handshake message {number}",
            (_A, handshake(message(number, bytes(4))), _B),
            refused(_UNEXPECTED),
        )
        for number in (3, 9, 99, 255)
    ),
    Scenario(
        "the header of a handshake message 99 of 2^24-1 bytes",
        (_A, handshake(b"\x63\xff\xff\xff"), _B),
        refused(_UNEXPECTED),
    ),
    Scenario("an empty handshake record", (_A, handshake(b""), _B), refused(_UNEXPECTED), TLS13),
    Scenario(
        "an empty handshake record",
        (_A, handshake(b""), _B, *CLOSE),
        refused(_UNEXPECTED),
        TLS12,
        differs={Carrier.RELAY: Difference(Reason.TLS12_EMPTY, in_order())},
    ),
)
SCENARIOS = (*_RENEGOTIATION, *_OTHERS)
