"""KeyUpdate: each request value, whole, cut at each byte, coalesced, of odd lengths, too many."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.doubles import new_session_ticket
from tests.odd_peers.outcome import Outcome, cut, given_up, in_order, no_rekey, refused
from tests.odd_peers.parts import (
    CLOSE_NOTIFY,
    Turn,
    Update,
    alert,
    data,
    handshake,
    handshakes,
    message,
    padded,
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
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update

if TYPE_CHECKING:
    from tests.odd_peers.parts import Part
    from tests.odd_peers.steps import Step

_A, _B = data(b"a"), data(b"b")
_UNEXPECTED = AlertDescription.unexpected_message
_ILLEGAL, _DECODE = AlertDescription.illegal_parameter, AlertDescription.decode_error
_TICKET = new_session_ticket()
_REQUESTED = KeyUpdateRequest.update_requested
_UPDATE = encode_key_update(KeyUpdateRequest.update_not_requested)
_ASKS = encode_key_update(_REQUESTED)
_PLACES = range(1, len(_UPDATE))


def _followed(
    name: str,
    *steps: Step | Part,
    expected: Outcome | None = None,
    old: Outcome | None = None,
    roles: tuple[str, ...] = CLIENT + SERVER,
    sample: bool = False,
) -> Scenario:
    """Make the peer change its key; a kernel that cannot ends with what came before."""
    return Scenario(
        name,
        (_A, *steps, _B, *CLOSE),
        in_order() if expected is None else expected,
        TLS13,
        roles,
        differs={
            Carrier.OLD_KERNEL: Difference(Reason.NO_REKEY, no_rekey() if old is None else old)
        },
        sample=sample,
    )


def _no_more(end: str) -> dict[Carrier, Difference]:
    return {Carrier.RELAY: Difference(Reason.HALF_MESSAGE, Outcome(b"a", end, ("FIN",)))}


_WHOLE = (
    _followed("a KeyUpdate", Update(), sample=True),
    _followed(
        "a KeyUpdate that asks for one",
        Update(_REQUESTED),
        expected=in_order().after("KeyUpdate"),
        sample=True,
    ),
    _followed("30 KeyUpdates, each with an empty record", *[Send(Update(), data(b""))] * 30),
    _followed("a KeyUpdate and data in one segment", Send(Update(), data(b"")), sample=True),
    _followed(
        "a ticket and a KeyUpdate in one record", handshake(_TICKET + _UPDATE), Turn(), roles=CLIENT
    ),
    _followed("a padded KeyUpdate", padded(ContentType.handshake, _UPDATE, 100), Turn()),
    _followed(
        "a ticket in two records, the second with a KeyUpdate",
        *handshakes(_TICKET + _UPDATE, 9),
        Turn(),
        roles=CLIENT,
    ),
)
_CUT = (
    *(
        _followed(
            f"a KeyUpdate cut behind byte {place}",
            *handshakes(_UPDATE, place),
            Turn(),
            sample=place == 1,
        )
        for place in _PLACES
    ),
    _followed(
        "a KeyUpdate that asks, cut behind byte 4",
        *handshakes(_ASKS, 4),
        Turn(),
        expected=in_order().after("KeyUpdate"),
    ),
    _followed("a KeyUpdate in records of one byte", *handshakes(_UPDATE, *_PLACES), Turn()),
    *(
        _followed(
            f"a KeyUpdate cut behind byte {place}, and the program writes meanwhile",
            *(Reads(1), handshake(_UPDATE[:place]), Looks(), Says(b"request ")),
            *(handshake(_UPDATE[place:]), Turn(), Hears(8)),
            expected=in_order(answer=b"request "),
            old=no_rekey().after("request "),
        )
        for place in _PLACES
    ),
    _followed(
        "a part of a KeyUpdate, and the program ends its direction",
        *(Reads(1), handshake(_UPDATE[:4]), Looks(), HalfCloses(), handshake(_UPDATE[4:]), Turn()),
        expected=in_order(answer=None),
        old=no_rekey().without_alert(),
    ),
)
_INSIDE = (
    *(
        Scenario(
            f"{what} inside a KeyUpdate",
            (_A, handshake(_UPDATE[:4]), record, handshake(_UPDATE[4:]), _B),
            refused(_UNEXPECTED),
            TLS13,
        )
        for what, record in {"data": data(b"x"), "empty data": data(b"")}.items()
    ),
    Scenario(
        "close_notify inside a KeyUpdate",
        (_A, handshake(_UPDATE[:4]), CLOSE_NOTIFY, Fin()),
        in_order(b"a"),
        TLS13,
        differs=_no_more("end"),
    ),
    Scenario(
        "a fatal alert inside a KeyUpdate",
        (_A, handshake(_UPDATE[:4]), alert(AlertDescription.internal_error)),
        given_up(AlertDescription.internal_error),
        TLS13,
    ),
    Scenario(
        "FIN inside a KeyUpdate",
        (_A, handshake(_UPDATE[:4]), Fin()),
        cut(),
        TLS13,
        differs=_no_more("Truncated"),
    ),
)


def _refused(name: str, payload: bytes, alert: AlertDescription, **differs: object) -> Scenario:
    scenario = Scenario(name, (_A, handshake(payload), _B), refused(alert), TLS13)
    return replace(scenario, **differs)  # type: ignore[arg-type]


_LONGER = {Carrier.RELAY: Difference(Reason.LENGTH, refused(_ILLEGAL))}
_REFUSED = (
    *(
        _refused(f"a KeyUpdate with request {value}", message(24, bytes([value])), _ILLEGAL)
        for value in (2, 3, 255)
    ),
    _refused("an empty KeyUpdate", message(24), _DECODE),
    _refused("a KeyUpdate of 2 bytes", message(24, bytes(2)), _DECODE, differs=_LONGER),
    _refused("a KeyUpdate of 16 bytes", message(24, bytes(16)), _DECODE, differs=_LONGER),
    _refused("a KeyUpdate of 2^24-1 bytes", b"\x18\xff\xff\xff" + bytes(100), _ILLEGAL),
    _refused("two KeyUpdates in one record", _UPDATE * 2, _UNEXPECTED),
    _refused("a KeyUpdate and a part of another in one record", _UPDATE + _UPDATE[:2], _UNEXPECTED),
    replace(
        _refused("a KeyUpdate and a ticket in one record", _UPDATE + _TICKET, _UNEXPECTED),
        roles=CLIENT,
    ),
    Scenario(
        "data under the old key behind a KeyUpdate",
        (_A, handshake(_UPDATE), _B),
        refused(AlertDescription.bad_record_mac),
        TLS13,
        differs={Carrier.OLD_KERNEL: Difference(Reason.NO_REKEY, no_rekey())},
    ),
    Scenario(
        "data under a new key without a KeyUpdate",
        (_A, Turn(), _B),
        refused(AlertDescription.bad_record_mac),
        TLS13,
    ),
    Scenario(
        "600 KeyUpdates and no data",
        (_A, Send(*[Update()] * 600), _B),
        refused(_UNEXPECTED),
        TLS13,
        differs={
            Carrier.OLD_KERNEL: Difference(Reason.NO_REKEY, no_rekey()),
        },
    ),
    Scenario("a KeyUpdate", (_A, handshake(_UPDATE), _B), refused(_UNEXPECTED), TLS12),
    Scenario(
        "a part of a KeyUpdate",
        (_A, handshake(_UPDATE[:2]), _B, *CLOSE),
        refused(_UNEXPECTED),
        TLS12,
        differs={Carrier.RELAY: Difference(Reason.TLS12_KEY_UPDATE, in_order())},
    ),
)
SCENARIOS = (*_WHOLE, *_CUT, *_INSIDE, *_REFUSED)
