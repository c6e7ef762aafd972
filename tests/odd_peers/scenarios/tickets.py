"""NewSessionTicket: whole, cut at each byte, several at once, of odd sizes, malformed."""

from __future__ import annotations

from tests.doubles import new_session_ticket
from tests.odd_peers.outcome import Outcome, cut, given_up, in_order, refused
from tests.odd_peers.parts import (
    CLOSE_NOTIFY,
    WARNING,
    Record,
    alert,
    data,
    handshake,
    handshakes,
    message,
)
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
from tests.odd_peers.steps import Fin, HalfCloses, Hears, Looks, Reads, Says, Send
from tlsify.codepoints import AlertDescription, ContentType

_A, _B = data(b"a"), data(b"b")
_UNEXPECTED = AlertDescription.unexpected_message
_TICKET = new_session_ticket()
_PLACES = range(1, len(_TICKET))
_MAX_PLAINTEXT, _MOST = 2**14, 2**16 - 1


def _ticket(
    ticket: bytes = b"ticket", *, lifetime: int = 3600, nonce: bytes = b"n", extensions: int = 0
) -> bytes:
    body = lifetime.to_bytes(4, "big") + bytes(4) + bytes([len(nonce)]) + nonce
    body += len(ticket).to_bytes(2, "big") + ticket + extensions.to_bytes(2, "big")
    if extensions:  # one, of no assigned number
        body += b"\xfe\0" + (extensions - 4).to_bytes(2, "big") + bytes(extensions - 4)
    return message(4, body)


def _full_records(payload: bytes) -> tuple[Record, ...]:
    return handshakes(payload, *range(_MAX_PLAINTEXT, len(payload), _MAX_PLAINTEXT))


def _taken(name: str, *records: Record) -> Scenario:
    """Make the client receive all of it, and go on."""
    return Scenario(name, (_A, *records, _B, *CLOSE), in_order(), TLS13, CLIENT)


def _no_more(end: str) -> dict[Carrier, Difference]:
    return {Carrier.RELAY: Difference(Reason.HALF_MESSAGE, Outcome(b"a", end, ("FIN",)))}


_WHOLE = (
    _taken("a ticket", handshake(_TICKET)),
    _taken("a ticket with an extension", handshake(_ticket(extensions=12))),
    _taken("a ticket of lifetime 0", handshake(_ticket(lifetime=0))),
    _taken("a ticket of lifetime 8 days", handshake(_ticket(lifetime=691200))),
    _taken("a ticket of lifetime 2^32-1", handshake(_ticket(lifetime=2**32 - 1))),
    _taken("a ticket without a nonce", handshake(_ticket(nonce=b""))),
    _taken("a ticket with a nonce of 255 bytes", handshake(_ticket(nonce=bytes(255)))),
    _taken("three tickets in one record", handshake(_TICKET * 3)),
    _taken(
        "two tickets and a part of a third in one record",
        *handshakes(_TICKET * 3, 2 * len(_TICKET) + 7),
    ),
    _taken("a ticket in records of one byte", *handshakes(_TICKET, *_PLACES)),
    _taken("a ticket of 16000 bytes", handshake(_ticket(bytes(16000)))),
    _taken("a ticket of 40000 bytes", *_full_records(_ticket(bytes(40000)))),
    _taken("a ticket of 65535 bytes", *_full_records(_ticket(bytes(_MOST)))),
    _taken(
        "the largest ticket there can be",
        *_full_records(_ticket(bytes(_MOST), nonce=bytes(255), extensions=_MOST)),
    ),
    Scenario(
        "60 tickets with data between them",
        (Send(*[handshake(_TICKET), data(b"x"), data(b"x"), data(b"x")] * 60), *CLOSE),
        in_order(b"xxx" * 60),
        TLS13,
        CLIENT,
    ),
)
_CUT = (
    *(
        _taken(f"a ticket cut behind byte {place}", *handshakes(_TICKET, place))
        for place in _PLACES
    ),
    *(
        Scenario(
            f"a ticket cut behind byte {place}, and the program writes meanwhile",
            (
                *(_A, Reads(1), handshake(_TICKET[:place]), Looks(), Says(b"request ")),
                *(handshake(_TICKET[place:]), Hears(8), _B, *CLOSE),
            ),
            in_order(answer=b"request "),
            TLS13,
            CLIENT,
            sample=place == 4,
        )
        for place in (1, 3, 4, 5, len(_TICKET) - 1)
    ),
    Scenario(
        "half a ticket, and the program ends its direction",
        (
            *(_A, Reads(1), handshake(_TICKET[:9]), Looks(), HalfCloses()),
            *(handshake(_TICKET[9:]), _B, *CLOSE),
        ),
        in_order(answer=None),
        TLS13,
        CLIENT,
    ),
    Scenario(
        "a ticket of 40000 bytes, and the program writes between its records",
        (
            *(_A, Reads(1)),
            *(
                step
                for record in _full_records(_ticket(bytes(40000)))
                for step in (record, Looks(), Says(b"x"))
            ),
            *(_B, *CLOSE),
        ),
        in_order(answer=b"xxx"),
        TLS13,
        CLIENT,
    ),
)
_INSIDE = (
    *(
        Scenario(
            f"{what} inside a ticket",
            (_A, handshake(_TICKET[:9]), record, handshake(_TICKET[9:]), _B),
            refused(_UNEXPECTED),
            TLS13,
            CLIENT,
        )
        for what, record in {
            "data": data(b"x"),
            "empty data": data(b""),
            "an empty handshake record": handshake(b""),
            "ChangeCipherSpec": Record(ContentType.change_cipher_spec, b"\1"),
            "an empty alert": Record(ContentType.alert, b""),
        }.items()
    ),
    Scenario(
        "user_canceled inside a ticket",
        (
            *(_A, handshake(_TICKET[:9]), alert(AlertDescription.user_canceled, WARNING)),
            *(handshake(_TICKET[9:]), _B, *CLOSE),
        ),
        in_order(),
        TLS13,
        CLIENT,
    ),
    Scenario(
        "close_notify inside a ticket",
        (_A, handshake(_TICKET[:9]), CLOSE_NOTIFY, Fin()),
        in_order(b"a"),
        TLS13,
        CLIENT,
        differs=_no_more("end"),
    ),
    Scenario(
        "a fatal alert inside a ticket",
        (_A, handshake(_TICKET[:9]), alert(AlertDescription.internal_error)),
        given_up(AlertDescription.internal_error),
        TLS13,
        CLIENT,
    ),
    Scenario(
        "FIN inside a ticket",
        (_A, handshake(_TICKET[:9]), Fin()),
        cut(),
        TLS13,
        CLIENT,
        differs=_no_more("Truncated"),
    ),
    Scenario(
        "FIN inside a ticket, and the program writes",
        (_A, Reads(1), handshake(_TICKET[:9]), Looks(), Fin(), Says(b"answer ")),
        cut(answer=b"answer "),
        TLS13,
        CLIENT,
        differs=_no_more("Truncated"),
    ),
)
_REFUSED = (
    *(
        Scenario(name, (_A, handshake(payload), _B), refused(alert), TLS13, CLIENT)
        for name, payload, alert in (
            ("an empty NewSessionTicket", message(4), AlertDescription.decode_error),
            ("a ticket cut short", message(4, _TICKET[4:-1]), AlertDescription.decode_error),
            (
                "a ticket with a byte too many",
                message(4, _TICKET[4:] + b"\0"),
                AlertDescription.decode_error,
            ),
            ("an empty ticket", _ticket(b""), AlertDescription.decode_error),
            (
                "a ticket longer than there can be",
                b"\4\xff\xff\xff" + bytes(100),
                AlertDescription.illegal_parameter,
            ),
        )
    ),
    Scenario(
        "1000 tickets",
        (_A, Send(*[handshake(_TICKET)] * 1000), _B),
        refused(_UNEXPECTED),
        TLS13,
        CLIENT,
    ),
    Scenario("a ticket", (_A, handshake(_TICKET), _B), refused(_UNEXPECTED), TLS13, SERVER),
    Scenario("a ticket", (_A, handshake(_TICKET), _B), refused(_UNEXPECTED), TLS12),
)
SCENARIOS = (*_WHOLE, *_CUT, *_INSIDE, *_REFUSED)
