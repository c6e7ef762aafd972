"""Alerts of each kind, level and length."""

from __future__ import annotations

from tests.odd_peers.outcome import Outcome, given_up, in_order, refused
from tests.odd_peers.parts import FATAL, WARNING, Record, alert, data
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
from tests.odd_peers.steps import Fin, Send
from tlsify.codepoints import AlertDescription, ContentType

_A, _B = data(b"a"), data(b"b")
_CLOSE_NOTIFY, _CANCELED = AlertDescription.close_notify, AlertDescription.user_canceled
_NO_RENEGOTIATION = AlertDescription.no_renegotiation
_ERRORS = tuple(each for each in AlertDescription if each not in {_CLOSE_NOTIFY, _CANCELED})
_UNASSIGNED = 7
_UNEXPECTED = AlertDescription.unexpected_message
_CANCEL = alert(_CANCELED, WARNING)


def _alert(payload: bytes) -> Record:
    return Record(ContentType.alert, payload)


def _impatient(alert: AlertDescription) -> dict[Carrier, Difference]:
    return {Carrier.RELAY: Difference(Reason.PATIENCE, refused(alert))}


_FATAL = tuple(
    Scenario(f"alert {each.name}", (_A, alert(each), _B), given_up(each), versions, roles)
    for each in _ERRORS
    for versions, roles in ((TLS13, CLIENT), (TLS12, SERVER))
)
_WARNINGS = tuple(
    Scenario(
        f"warning {each.name}",
        (_A, alert(each, WARNING), _B, *CLOSE),
        in_order(),
        TLS12,
        CLIENT,
        differs=(
            _impatient(AlertDescription.handshake_failure) if each is _NO_RENEGOTIATION else {}
        ),
    )
    for each in _ERRORS
)
_LEVELS = (
    *(
        Scenario(
            f"alert {each.name} at level warning",
            (_A, alert(each, WARNING), _B),
            given_up(each),
            TLS13,
        )
        for each in (_UNEXPECTED, _NO_RENEGOTIATION)
    ),
    *(
        Scenario(f"alert at level {level}", (_A, alert(40, level), _B), outcome, versions)
        for level in (0, 3, 255)
        for versions, outcome in (
            (TLS13, given_up(AlertDescription.handshake_failure)),
            (TLS12, refused(AlertDescription.illegal_parameter)),
        )
    ),
    Scenario("user_canceled", (_A, _CANCEL, _B, *CLOSE), in_order()),
    Scenario("user_canceled at level fatal", (_A, alert(_CANCELED), _B, *CLOSE), in_order(), TLS13),
    Scenario(
        "user_canceled at level fatal", (_A, alert(_CANCELED), _B), given_up(_CANCELED), TLS12
    ),
    Scenario(
        "user_canceled and close_notify in one segment",
        (_A, Send(_CANCEL, alert(_CLOSE_NOTIFY, WARNING)), Fin()),
        in_order(b"a"),
    ),
    Scenario(
        "close_notify at level fatal", (_A, alert(_CLOSE_NOTIFY), Fin()), in_order(b"a"), TLS13
    ),
    Scenario(
        "close_notify at level fatal",
        (_A, alert(_CLOSE_NOTIFY), Fin()),
        in_order(b"a"),
        TLS12,
        differs={
            Carrier.RELAY: Difference(Reason.FATAL_CLOSE, Outcome(b"a", "end", ("FIN",))),
        },
    ),
    Scenario("alert of no assigned number", (_A, alert(_UNASSIGNED, FATAL), _B), given_up(7)),
    Scenario(
        "warning of no assigned number",
        (_A, alert(_UNASSIGNED, WARNING), _B, *CLOSE),
        in_order(),
        TLS12,
    ),
)
_LENGTHS = (
    Scenario("an empty alert", (_A, _alert(b""), _B), refused(_UNEXPECTED), sample=True),
    *(
        Scenario(
            f"an alert of {size} bytes", (_A, _alert(b"\1\0\1\0"[:size]), _B), refused(_UNEXPECTED)
        )
        for size in (1, 3, 4)
    ),
    Scenario("an alert of 16384 bytes", (_A, _alert(bytes(2**14)), _B), refused(_UNEXPECTED)),
    Scenario(
        "an alert in two records",
        (_A, Send(_alert(b"\1"), _alert(b"\0")), _B),
        refused(_UNEXPECTED),
    ),
)
_MANY = (
    Scenario("4 times user_canceled", (_A, Send(*[_CANCEL] * 4), _B, *CLOSE), in_order()),
    *(
        Scenario(
            f"{count} times user_canceled",
            (_A, Send(*[_CANCEL] * count), _B, *CLOSE),
            in_order(),
            differs=_impatient(_UNEXPECTED),
        )
        for count in (5, 60)
    ),
    Scenario("1000 times user_canceled", (_A, Send(*[_CANCEL] * 1000), _B), refused(_UNEXPECTED)),
)
SCENARIOS = (*_FATAL, *_WARNINGS, *_LEVELS, *_LENGTHS, *_MANY)
