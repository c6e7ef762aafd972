"""The handshake and its end: in pieces, cut, refused, with something behind it or too early."""

from __future__ import annotations

from tests.doubles import new_session_ticket
from tests.odd_peers.opening import Halt, Opening
from tests.odd_peers.outcome import Outcome, cut, given_up, in_order, no_rekey, refused
from tests.odd_peers.parts import CLOSE_NOTIFY, Record, Update, alert, data, handshake
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
from tests.odd_peers.steps import Fin, Hears, Reads, Says
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.tls.record import encode_plain_alert, encode_record

_A, _B = data(b"a"), data(b"b")
_UNEXPECTED = AlertDescription.unexpected_message
_FAILURE = AlertDescription.handshake_failure

_PIECES = (
    *(
        Scenario(
            f"handshake in records of {size} bytes",
            (_A, _B, *CLOSE),
            in_order(),
            opening=Opening(fragment=size),
        )
        for size in (1, 50)
    ),
    *(
        Scenario(
            f"another implementation's handshake in records of {size} bytes",
            (_A, Reads(1), Says(b"answer "), Hears(7), _B, *CLOSE),
            in_order(answer=b"answer "),
            opening=Opening(foreign=size),
        )
        for size in (1, 50, 2**14)
    ),
    Scenario(
        "handshake byte by byte", (_A, _B, *CLOSE), in_order(), opening=Opening(dribbles=True)
    ),
)
# Where our side finishes with the peer's last flight, or in front of it.
_LAST = ((TLS13, SERVER), (TLS12, CLIENT))
_EARLY = ((TLS13, CLIENT), (TLS12, SERVER))
_NO_REKEY = {Carrier.OLD_KERNEL: Difference(Reason.NO_REKEY, no_rekey())}
_BEHIND = (
    ("data", (_A, _B), CLOSE, in_order()),
    ("data and close_notify", (_A, _B, CLOSE_NOTIFY), (Fin(),), in_order()),
    ("close_notify", (CLOSE_NOTIFY,), (Fin(),), in_order(b"")),
    ("data, then FIN", (_A,), (Fin(),), cut()),
    ("an empty record", (data(b""),), (_A, _B, *CLOSE), in_order()),
    (
        "a fatal alert",
        (_A, alert(AlertDescription.internal_error)),
        (),
        given_up(AlertDescription.internal_error),
    ),
    ("an empty alert", (_A, Record(ContentType.alert, b"")), (), refused(_UNEXPECTED)),
    ("a record of another type", (_A, Record(99, b"x")), (), refused(_UNEXPECTED)),
)
_AT_THE_END = tuple(
    Scenario(
        f"{what} in one segment with the peer's {flight}",
        steps,
        outcome,
        versions,
        roles,
        opening=Opening(behind=parts) if flight == "last flight" else Opening(early=parts),
        sample=what == "data",
    )
    for what, parts, steps, outcome in _BEHIND
    for flight, places in (("last flight", _LAST), ("Finished, in front of ours", _EARLY))
    for versions, roles in places
)
_UPDATES = (
    Scenario(
        "a KeyUpdate in one segment with the peer's last flight",
        (_B, *CLOSE),
        in_order(),
        TLS13,
        SERVER,
        opening=Opening(behind=(_A, Update())),
        differs=_NO_REKEY,
        sample=True,
    ),
    Scenario(
        "a KeyUpdate in one segment with the peer's Finished, in front of ours",
        (_B, *CLOSE),
        in_order(),
        TLS13,
        CLIENT,
        opening=Opening(early=(_A, Update())),
        differs=_NO_REKEY,
        sample=True,
    ),
    Scenario(
        "tickets in one segment with the peer's Finished, in front of ours",
        (_B, *CLOSE),
        in_order(),
        TLS13,
        CLIENT,
        opening=Opening(
            early=(handshake(new_session_ticket()), _A, handshake(new_session_ticket()))
        ),
    ),
    Scenario(
        "a part of a ticket in one segment with the peer's Finished, and the program writes",
        (Reads(1), Says(b"request "), handshake(new_session_ticket()[9:]), _B, *CLOSE),
        in_order(answer=b"request "),
        TLS13,
        CLIENT,
        opening=Opening(early=(_A, handshake(new_session_ticket()[:9]))),
    ),
)


def _halted(
    name: str,
    halt: Halt,
    end: str,
    saw: tuple[str, ...],
    where: tuple[tuple[object, object], ...],
) -> tuple[Scenario, ...]:
    return tuple(
        Scenario(name, (), Outcome(b"", end, saw), versions, roles, opening=Opening(halt=halt))  # type: ignore[arg-type]
        for versions, roles in where
    )


_ANY = ((TLS13 + TLS12, CLIENT + SERVER),)
# Who sends a second flight in the handshake.
_SECOND = ((TLS13, SERVER), (TLS12, CLIENT + SERVER))
_CUT = (
    *_halted("FIN instead of the first flight", Halt(0), "Truncated", ("FIN",), _ANY),
    *_halted("FIN within the first flight", Halt(0, 0.5), "Truncated", ("FIN",), _ANY),
    *_halted("FIN instead of the second flight", Halt(1), "Truncated", ("FIN",), _SECOND),
    *_halted("FIN within the second flight", Halt(1, 0.5), "Truncated", ("FIN",), _SECOND),
    *_halted("RST instead of the first flight", Halt(0, resets=True), "ECONNRESET", (), _ANY),
    *_halted("RST within the first flight", Halt(0, 0.5, resets=True), "ECONNRESET", (), _ANY),
    *_halted("RST instead of the second flight", Halt(1, resets=True), "ECONNRESET", (), _SECOND),
    *_halted("RST within the second flight", Halt(1, 0.5, resets=True), "ECONNRESET", (), _SECOND),
    *(
        scenario
        for what, alert in (("an alert", b"\2\x28"), ("close_notify", b"\1\0"))
        for roles, description in ((CLIENT, AlertDescription(alert[1]).name), (SERVER, "none"))
        for scenario in _halted(
            f"{what} instead of the first flight",
            Halt(0, instead=encode_record(ContentType.alert, alert)),
            f"PeerAlert: {description}",
            ("FIN",),
            ((TLS13 + TLS12, roles),),
        )
    ),
    *_halted(
        "data instead of the first flight",
        Halt(0, instead=encode_record(ContentType.application_data, b"x" * 40)),
        "PeerMisbehaved: unexpected_message",
        ("unexpected_message",),
        _ANY,
    ),
    *_halted(
        "ChangeCipherSpec instead of the first flight",
        Halt(0, instead=encode_record(ContentType.change_cipher_spec, b"\1")),
        "PeerMisbehaved: unexpected_message",
        ("unexpected_message",),
        _ANY,
    ),
    *_halted(
        "an empty handshake record instead of the first flight",
        Halt(0, instead=encode_record(ContentType.handshake, b"")),
        "PeerMisbehaved: unexpected_message",
        ("unexpected_message",),
        ((TLS13 + TLS12, SERVER),),
    ),
    *_halted(
        "bytes that are no record instead of the first flight",
        Halt(0, instead=b"HTTP/1.0 200 OK\r\n\r\n"),
        "PeerMisbehaved: unexpected_message",
        ("unexpected_message",),
        _ANY,
    ),
    *_halted(
        "a record of 65535 bytes instead of the first flight",
        Halt(0, instead=b"\x16\3\3\xff\xff" + bytes(40)),
        "PeerMisbehaved: record_overflow",
        ("record_overflow",),
        _ANY,
    ),
    *(
        scenario
        for where, alert in (
            ((TLS13, SERVER), "bad_record_mac"),
            ((TLS12, CLIENT + SERVER), "unexpected_message"),
        )
        for scenario in _halted(
            "data without protection instead of the second flight",
            Halt(1, instead=encode_record(ContentType.application_data, b"x" * 40)),
            f"PeerMisbehaved: {alert}",
            (alert,),
            (where,),
        )
    ),
    *_halted(
        "an alert without protection instead of the second flight",
        Halt(1, instead=encode_plain_alert(_FAILURE)),
        "PeerAlert: handshake_failure",
        ("FIN",),
        _SECOND,
    ),
)
_TICKETS = (
    Scenario(
        "a client that counts tickets",
        (_A, _B, *CLOSE),
        in_order(),
        TLS13,
        SERVER,
        differs={
            Carrier.RELAY: Difference(
                Reason.TICKETS, in_order().after("new_session_ticket", "new_session_ticket")
            )
        },
        notes_tickets=True,
    ),
)
SCENARIOS = (*_PIECES, *_AT_THE_END, *_UPDATES, *_CUT, *_TICKETS)
