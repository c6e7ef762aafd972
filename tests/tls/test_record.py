"""Tests of record."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import AlertDescription, ContentType
from tlsify.errors import PeerMisbehaved
from tlsify.tls.record import (
    HEADER_LENGTH,
    MAX_CIPHERTEXT,
    Framer,
    decode_header,
    encode_plain_alert,
    encode_record,
    last_alert,
    split_records,
)

TYPES = st.sampled_from(list(ContentType))
RECORDS = st.lists(st.tuples(TYPES, st.binary(max_size=40)), max_size=6)


@given(st.binary(min_size=HEADER_LENGTH, max_size=HEADER_LENGTH))
def test_any_five_bytes(header: bytes) -> None:
    """Five bytes are a header, or are refused with a fatal alert and a printable reason."""
    try:
        read = decode_header(header)
    except PeerMisbehaved as error:
        assert error.alert is not None
        assert str(error).isprintable()
    else:
        assert (read.content_type, read.length) == (header[0], int.from_bytes(header[3:], "big"))
        assert read.length <= MAX_CIPHERTEXT


@pytest.mark.parametrize("last", [b"\x1b", b"\x00", b"\x07", b"\x80"])
def test_stranger_that_speaks_to_the_terminal(last: bytes) -> None:
    """Control characters of a stranger do not reach messages and logs."""
    with pytest.raises(PeerMisbehaved) as caught:
        decode_header(b"EHLO" + last)
    assert str(caught.value).isprintable()


@given(TYPES, st.binary(max_size=300))
def test_header_of_an_encoded_record(content_type: ContentType, payload: bytes) -> None:
    """Decoding the header of what was encoded gives type and length back."""
    record = encode_record(content_type, payload)
    assert decode_header(record[:HEADER_LENGTH]) == (content_type, len(payload))
    assert record[HEADER_LENGTH:] == payload


@pytest.mark.parametrize(
    ("header", "alert", "words"),
    [
        (b"\x18\x03\x03\x00\x01", AlertDescription.unexpected_message, "first byte 0x18"),
        (b"\x80\x2e\x01\x03\x01", AlertDescription.unexpected_message, "first byte 0x80"),
        (b"GET /", AlertDescription.unexpected_message, 'beginning "GET /"'),
        (b"PUT /", AlertDescription.unexpected_message, 'beginning "PUT /"'),
        (b"HTTP/", AlertDescription.unexpected_message, 'beginning "HTTP/"'),
        (b"SSH-2", AlertDescription.unexpected_message, "not a TLS record"),
        (b"EHLO ", AlertDescription.unexpected_message, 'beginning "EHLO"'),
        (b"\x16\x02\x00\x00\x01", AlertDescription.protocol_version, "version 2.0"),
        (b"\x16\x04\x00\x00\x01", AlertDescription.protocol_version, "version 4.0"),
        (b"\x17\x03\x03\x48\x01", AlertDescription.record_overflow, "18433 bytes"),
        (b"\x17\x03\x03\xff\xff", AlertDescription.record_overflow, "65535 bytes"),
    ],
)
def test_not_a_record(header: bytes, alert: AlertDescription, words: str) -> None:
    """Each kind of stranger is named and answered with its own alert."""
    with pytest.raises(PeerMisbehaved) as caught:
        decode_header(header)
    assert caught.value.alert is alert
    assert words in str(caught.value)


def test_longest_record() -> None:
    """A record of exactly the largest length is accepted."""
    header = b"\x17\x03\x03" + MAX_CIPHERTEXT.to_bytes(2, "big")
    assert decode_header(header).length == MAX_CIPHERTEXT


@given(RECORDS, st.data())
def test_stream_cut_anywhere(records: list[tuple[ContentType, bytes]], data: st.DataObject) -> None:
    """However the stream is cut, the same records come out, and none is asked beyond its end."""
    whole = [encode_record(*record) for record in records]
    stream = b"".join(whole)
    framer, found, position = Framer(), [], 0
    while position < len(stream):
        assert 1 <= framer.need() <= len(stream) - position
        size = data.draw(st.integers(1, framer.need()))
        record = framer.feed(stream[position : position + size])
        position += size
        if record:
            found.append(record)
            assert framer.pending == b""
        else:
            assert stream[:position].endswith(framer.pending)
    assert found == whole
    assert framer.need() == HEADER_LENGTH


@given(RECORDS, st.integers(1, 30), st.data())
def test_reading_ahead(
    records: list[tuple[ContentType, bytes]], ahead: int, data: st.DataObject
) -> None:
    """As long as a record is no shorter than what is read ahead, none is asked for beyond it."""
    whole = [encode_record(*record) for record in records]
    whole.append(encode_record(ContentType.handshake, bytes(ahead)))
    stream, position = b"".join(whole), 0
    found: list[bytes] = []
    framer = Framer(ahead)
    while len(found) < len(whole):
        if not (record := framer.feed(b"")):
            assert 1 <= framer.need() <= len(stream) - position
            size = data.draw(st.integers(1, framer.need()))
            record = framer.feed(stream[position : position + size])
            position += size
        found += split_records(record)
    assert found == whole
    assert framer.pending == b""


@given(st.binary(max_size=64), st.integers(1, 7))
def test_arbitrary_stream(stream: bytes, size: int) -> None:
    """Arbitrary bytes raise only PeerMisbehaved, with what was read still at hand."""
    framer = Framer()
    try:
        while stream:
            step = min(size, framer.need())
            framer.feed(stream[:step])
            stream = stream[step:]
    except PeerMisbehaved:
        assert len(framer.pending) >= HEADER_LENGTH


def test_garbage_behind_a_record() -> None:
    """It is refused once the record in front of it was returned."""
    whole = encode_record(ContentType.handshake, b"hello")
    framer = Framer()
    assert framer.feed(whole + b"garbage") == whole
    assert framer.count == 1
    with pytest.raises(PeerMisbehaved):
        framer.feed(b"")
    assert framer.pending == b"garbage"


@given(RECORDS)
def test_split_emitted_records(records: list[tuple[ContentType, bytes]]) -> None:
    """What an engine emitted is cut where its records end."""
    whole = [encode_record(*record) for record in records]
    assert split_records(b"".join(whole)) == whole


def test_empty_record() -> None:
    """A record without payload is complete with its header."""
    framer = Framer()
    assert framer.feed(b"\x17\x03\x03\x00\x00") == b"\x17\x03\x03\x00\x00"
    assert framer.need() == HEADER_LENGTH


@pytest.mark.parametrize("description", AlertDescription)
def test_plain_alert(description: AlertDescription) -> None:
    """An alert before any key is seven bytes, fatal."""
    assert encode_plain_alert(description) == bytes([21, 3, 3, 0, 2, 2, description])


@pytest.mark.parametrize(
    ("flight", "alert"),
    [
        (b"", None),
        (encode_plain_alert(AlertDescription.internal_error), AlertDescription.internal_error),
        (
            encode_record(ContentType.handshake, b"hello")
            + encode_plain_alert(AlertDescription.decode_error),
            AlertDescription.decode_error,
        ),
        (encode_record(ContentType.handshake, b"\x02\x28"), None),
        (encode_record(ContentType.alert, b"\x02\x28" + bytes(24)), None),  # sealed by TLS 1.2
        (encode_record(ContentType.application_data, b"\x02\x28\x15" + bytes(16)), None),
        (encode_record(ContentType.alert, b"\x02\xff"), None),
    ],
)
def test_last_alert(flight: bytes, alert: AlertDescription | None) -> None:
    """The alert at the end of a flight is read, unless it is sealed or of no known kind."""
    assert last_alert(flight) is alert
