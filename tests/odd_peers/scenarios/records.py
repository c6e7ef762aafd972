"""Records: empty, padded, oversized, of other types, without protection, damaged, many."""

from __future__ import annotations

from tests.odd_peers.outcome import in_order, refused
from tests.odd_peers.parts import CLOSE_NOTIFY, Plain, Record, data, padded
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
from tlsify.tls.record import encode_record

_A, _B = data(b"a"), data(b"b")
_UNEXPECTED = AlertDescription.unexpected_message
_OVERFLOW = AlertDescription.record_overflow
_BAD_MAC = AlertDescription.bad_record_mac
_VERSION = AlertDescription.protocol_version
_MAX = 2**14
_DATA, _ALERT = ContentType.application_data, ContentType.alert
_CCS = ContentType.change_cipher_spec
_KERNEL_SAYS_BAD_MAC = {Carrier.KERNEL: Difference(Reason.ONE_ERRNO, refused(_BAD_MAC))}

_GOOD = (
    Scenario("data", (_A, _B, *CLOSE), in_order(), sample=True),
    Scenario("no data", CLOSE, in_order(b"")),
    Scenario(
        "data and close_notify in one segment", (Send(_A, _B, CLOSE_NOTIFY), Fin()), in_order()
    ),
    Scenario(
        "1000 records of one byte in one segment",
        (Send(*[data(b"x")] * 1000), *CLOSE),
        in_order(b"x" * 1000),
    ),
    Scenario("16384 bytes", (data(bytes(_MAX)), _B, *CLOSE), in_order(bytes(_MAX) + b"b")),
)
_LONG = (
    *(
        Scenario(
            f"a record of {size} bytes",
            (_A, data(bytes(size)), _B),
            refused(_OVERFLOW),
            sample=size == _MAX + 1,
        )
        for size in (_MAX + 1, _MAX + 256, 20000)
    ),
    Scenario(
        "a record that says 65535 bytes",
        (_A, Plain(b"\x17\x03\x03\xff\xff" + bytes(40)), _B),
        refused(_OVERFLOW),
        sample=True,
    ),
)
_EMPTY = (
    Scenario("an empty record", (_A, data(b""), _B, *CLOSE), in_order(), sample=True),
    Scenario("empty records first and last", (data(b""), _A, _B, data(b""), *CLOSE), in_order()),
    Scenario("32 empty records", (_A, Send(*[data(b"")] * 32), _B, *CLOSE), in_order()),
    *(
        Scenario(
            f"{count} empty records",
            (_A, Send(*[data(b"")] * count), _B, *CLOSE),
            in_order(),
            differs={Carrier.RELAY: Difference(Reason.PATIENCE, refused(_UNEXPECTED))},
        )
        for count in (33, 500)
    ),
)
_PADDED = (
    *(
        Scenario(
            f"data with {size} bytes of padding",
            (_A, padded(_DATA, b"b", size), *CLOSE),
            in_order(),
            TLS13,
        )
        for size in (1, 255, _MAX - 1)
    ),
    Scenario(
        "16384 bytes with a byte of padding",
        (_A, padded(_DATA, bytes(_MAX), 1), _B, *CLOSE),
        refused(_OVERFLOW),
        TLS13,
        differs={Carrier.RELAY: Difference(Reason.PADDING, in_order(b"a" + bytes(_MAX) + b"b"))},
    ),
    Scenario("padding alone", (_A, padded(_DATA, b"", 100), _B, *CLOSE), in_order(), TLS13),
    Scenario(
        "a padded close_notify", (_A, padded(_ALERT, b"\1\0", 100), Fin()), in_order(b"a"), TLS13
    ),
    *(
        Scenario(
            f"{size} zeros and no content type",
            (_A, Record(0, bytes(size)), _B),
            refused(_UNEXPECTED),
            TLS13,
            differs=_KERNEL_SAYS_BAD_MAC,
        )
        for size in (1, 100, _MAX)
    ),
)
_TYPES = (
    *(
        Scenario(f"a record of type {number}", (_A, Record(number, b"x"), _B), refused(_UNEXPECTED))
        for number in (1, 19, 24, 99, 255)
    ),
    Scenario(
        "a record of type 0",
        (_A, Record(0, b"x"), _B),
        refused(_UNEXPECTED),
        TLS12,
        differs=_KERNEL_SAYS_BAD_MAC,
    ),
    Scenario("an empty record of type 99", (_A, Record(99, b""), _B), refused(_UNEXPECTED)),
    Scenario("ChangeCipherSpec", (_A, Record(_CCS, b"\1"), _B), refused(_UNEXPECTED), sample=True),
    Scenario("ChangeCipherSpec of value 2", (_A, Record(_CCS, b"\2"), _B), refused(_UNEXPECTED)),
)
_PLAIN = (
    *(
        Scenario(
            f"{what} without protection",
            (_A, Plain(encode_record(content_type, payload)), _B),
            outcome,
            versions,
            differs=differs,
        )
        for what, content_type, payload in (
            ("ChangeCipherSpec", _CCS, b"\1"),
            ("an alert", _ALERT, b"\2\x28"),
            ("close_notify", _ALERT, b"\1\0"),
        )
        for versions, outcome, differs in (
            (TLS13, refused(_UNEXPECTED), _KERNEL_SAYS_BAD_MAC),
            (TLS12, refused(_BAD_MAC), {}),
        )
        if (content_type, versions) != (_CCS, TLS13)
    ),
    *(
        Scenario(
            "ChangeCipherSpec without protection",
            (_A, Plain(encode_record(_CCS, b"\1")), _B, *CLOSE),
            refused(_UNEXPECTED),
            TLS13,
            roles,
            differs=_KERNEL_SAYS_BAD_MAC | differs,
        )
        for roles, differs in (
            (CLIENT, {Carrier.RELAY: Difference(Reason.COMPATIBLE, in_order())}),
            (SERVER, {}),
        )
    ),
    Scenario(
        "data without protection",
        (_A, Plain(encode_record(_DATA, b"x" * 40)), _B),
        refused(_BAD_MAC),
    ),
)
_DAMAGED = (
    Scenario(
        "a flipped bit", (_A, Record(_DATA, b"x", damaged=True), _B), refused(_BAD_MAC), sample=True
    ),
    Scenario(
        "a flipped bit in close_notify",
        (_A, Record(_ALERT, b"\1\0", damaged=True), Fin()),
        refused(_BAD_MAC),
    ),
    Scenario(
        "a record too short for a tag",
        (_A, Plain(b"\x17\x03\x03\x00\x08" + bytes(8)), _B),
        refused(_BAD_MAC),
    ),
    Scenario("a record of no bytes", (_A, Plain(b"\x17\x03\x03\x00\x00"), _B), refused(_BAD_MAC)),
    *(
        Scenario(
            what,
            (_A, Plain(content), _B),
            refused(_VERSION),
            versions,
            differs=(
                {Carrier.RELAY: Difference(Reason.NO_RECORD, refused(alert))}
                if versions is TLS13
                else {}
            ),
        )
        for what, content, alert in (
            (
                "a record of version 2.0",
                b"\x17\2\0\0\x20" + bytes(32),
                AlertDescription.decode_error,
            ),
            ("bytes that are no record", b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", _UNEXPECTED),
        )
        for versions in (TLS13, TLS12)
    ),
)
SCENARIOS = (*_GOOD, *_LONG, *_EMPTY, *_PADDED, *_TYPES, *_PLAIN, *_DAMAGED)
