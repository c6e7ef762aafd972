"""Tests of der."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.credentials.der import SEQUENCE, elements, whole


def encode(tag: int, content: bytes) -> bytes:
    """Write one element."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(octets)]) + octets + content


@given(
    st.lists(
        st.tuples(
            st.integers(0, 255).filter(lambda tag: tag & 0x1F != 0x1F),
            st.binary(max_size=20)
            | st.integers(120, 300).map(bytes)
            | st.sampled_from([bytes(2**16 - 1), bytes(2**16)]),
        ),
        max_size=4,
    )
)
def test_written_and_read(parts: list[tuple[int, bytes]]) -> None:
    """What was written is read, with lengths of any size."""
    encoded = [encode(*part) for part in parts]
    assert list(elements(b"".join(encoded))) == parts
    assert list(whole(b"".join(encoded))) == encoded


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(b"\x30", id="no length"),
        pytest.param(b"\x30\x01", id="no contents"),
        pytest.param(b"\x30\x82\x01", id="half of a length"),
        pytest.param(b"\x30\x80\x00\x00", id="indefinite length"),
        pytest.param(b"\x30\x81\x00", id="long form of nothing"),
        pytest.param(b"\x30\xff" + bytes(127), id="length of zeros"),
        pytest.param(b"\x30\x84\xff\xff\xff\xff", id="length of gigabytes"),
        pytest.param(b"\x1f\x81\x01\x00", id="tag of several octets"),
        pytest.param(b"\x30\x00\x30", id="half of a second"),
    ],
)
def test_malformed(encoded: bytes) -> None:
    """Half of an element is no element."""
    with pytest.raises(ValueError, match=r"element|length"):
        list(elements(encoded))


@given(st.binary(max_size=60))
def test_anything(encoded: bytes) -> None:
    """Any bytes are elements, or a ValueError."""
    try:
        found = list(elements(encoded))
    except ValueError:
        return
    assert sum(2 + len(content) for _, content in found) <= len(encoded)
    assert all(tag != SEQUENCE or isinstance(content, bytes) for tag, content in found)
