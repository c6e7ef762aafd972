"""Ends: in good order and not, at each step, what comes behind them, and ours first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.odd_peers.outcome import Outcome, broken, cut, in_order
from tests.odd_peers.parts import CLOSE_NOTIFY, Plain, Record, alert, data
from tests.odd_peers.reasons import Reason
from tests.odd_peers.scenario import CLOSE, Carrier, Difference, Scenario
from tests.odd_peers.steps import Fin, HalfCloses, Hears, Reads, Reset, Says, Send
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.config import ClosePolicy

if TYPE_CHECKING:
    from tests.odd_peers.parts import Part

_A, _B = data(b"a"), data(b"b")
_ALERT = alert(AlertDescription.internal_error)
_DAMAGED = Record(ContentType.application_data, b"x", damaged=True)
_RELAXED = ClosePolicy.RELAXED


def _part(size: int) -> Record:
    return Record(ContentType.application_data, b"bbbb", keep=size)


_CUTS = (
    Scenario("FIN alone", (Fin(),), cut(b""), sample=True),
    Scenario("FIN behind data", (_A, Fin()), cut(), sample=True),
    *(
        Scenario(f"FIN behind {size} bytes of a record", (_A, _part(size), Fin()), cut())
        for size in (1, 4, 5, 6, 20)
    ),
    Scenario(
        "FIN behind a part of close_notify",
        (_A, Record(ContentType.alert, b"\1\0", keep=12), Fin()),
        cut(),
    ),
    Scenario("FIN behind an empty record", (_A, data(b""), Fin()), cut()),
    Scenario(
        "FIN behind user_canceled", (_A, alert(AlertDescription.user_canceled, 1), Fin()), cut()
    ),
    Scenario(
        "FIN, and the program writes",
        (_A, Reads(1), Fin(), Says(b"answer ")),
        cut(answer=b"answer "),
        sample=True,
    ),
    Scenario(
        "FIN, and the program ends its direction",
        (_A, Reads(1), Fin(), HalfCloses()),
        cut(answer=None),
    ),
    Scenario("FIN, to a program that does not mind", (_A, Fin()), in_order(b"a"), closing=_RELAXED),
    Scenario(
        "FIN, to a program that does not mind and writes",
        (_A, Reads(1), Fin(), Says(b"answer ")),
        in_order(b"a", b"answer "),
        closing=_RELAXED,
    ),
    Scenario(
        "FIN inside a record, to a program that does not mind",
        (_A, _part(9), Fin()),
        in_order(b"a"),
        closing=_RELAXED,
    ),
)
_RESETS = (
    Scenario("RST alone", (Reset(),), broken(got=b""), sample=True),
    Scenario("RST", (_A, Reads(1), Reset()), broken(), sample=True),
    Scenario("RST inside a record", (_A, Reads(1), _part(9), Reset()), broken()),
    Scenario(
        "RST, to a program that does not mind FIN",
        (_A, Reads(1), Reset()),
        broken(),
        closing=_RELAXED,
    ),
    Scenario("RST, and the program writes", (_A, Reads(1), Reset(), Says(b"x")), broken()),
)
_BEHIND: dict[str, Part] = {
    "data": _B,
    "close_notify": CLOSE_NOTIFY,
    "a fatal alert": _ALERT,
    "a damaged record": _DAMAGED,
    "bytes that are no record": Plain(b"x" * 100),
    "a record of another type": Record(99, b"x"),
    "a part of a record": _part(7),
}
_CLOSED = (
    Scenario("close_notify without FIN", (_A, CLOSE_NOTIFY), in_order(b"a")),
    *(
        Scenario(
            f"{what} behind close_notify", (_A, Send(CLOSE_NOTIFY, part), Fin()), in_order(b"a")
        )
        for what, part in _BEHIND.items()
    ),
    *(
        Scenario(
            f"{what} behind close_notify that was read, and the program writes",
            (_A, CLOSE_NOTIFY, Reads(2), part, Fin(), Says(b"answer ")),
            in_order(b"a", b"answer "),
        )
        for what, part in _BEHIND.items()
    ),
    Scenario(
        "close_notify, and the program writes on",
        (_A, CLOSE_NOTIFY, Reads(2), Says(b"one "), Hears(4), Says(b"two "), Hears(4)),
        in_order(b"a", b"one two "),
    ),
    Scenario(
        "close_notify and RST", (_A, CLOSE_NOTIFY, Reads(2), Reset()), Outcome(b"a", "end", ())
    ),
)
_OURS_FIRST = (
    Scenario(
        "the program ends its direction, and the peer goes on",
        (HalfCloses(), _A, _B, *CLOSE),
        in_order(answer=None),
        sample=True,
    ),
    Scenario("both end at once", (_A, *CLOSE, HalfCloses()), in_order(b"a", None)),
    Scenario(
        "the program ends its direction, and FIN comes", (HalfCloses(), _A, Fin()), cut(answer=None)
    ),
    Scenario(
        "the program ends its direction, and RST comes",
        (HalfCloses(), _A, Reads(1), Reset()),
        broken(),
    ),
    Scenario(
        "the program ends its direction, and a fatal alert comes",
        (HalfCloses(), _A, _ALERT),
        Outcome(b"a", "PeerAlert: internal_error", ("close_notify", "FIN")),
    ),
    Scenario(
        "the program ends its direction, and a damaged record comes",
        (HalfCloses(), _A, _DAMAGED),
        Outcome(b"a", "PeerMisbehaved: bad_record_mac", ("close_notify", "FIN")),
        differs={
            Carrier.RELAY: Difference(
                Reason.BEHIND_OURS, Outcome(b"a", "PeerMisbehaved: none", ("close_notify", "FIN"))
            )
        },
    ),
)
SCENARIOS = (*_CUTS, *_RESETS, *_CLOSED, *_OURS_FIRST)
