"""Tests of fields: what is written is read, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.agent import wire
from tlsify.agent.fields import MAX_MILLISECONDS, VERSION, Message, decode, encode
from tlsify.errors import AgentError, ConfigError

ALL = tuple(Message.kinds.values())
HEAD = bytes([VERSION, wire.Kind.CONNECT])


def field(tag: int, value: bytes) -> bytes:
    """Write a field as the documentation says."""
    return bytes([tag]) + len(value).to_bytes(4, "big") + value


def test_bytes_of_a_request() -> None:
    """Byte by byte as documented."""
    request = wire.ClientRequest(server_name="a.b", identities=("dns:a.b", "ip:::1"), timeout=1.5)
    names = field(1, b"a.b") + field(2, b"dns:a.b") + field(2, b"ip:::1")
    assert encode(request) == HEAD + field(8, b"\0\0\x05\xdc") + names
    assert decode(encode(request), wire.Request) == request


def test_order_does_not_matter() -> None:
    """Fields come in any order; those of one tag keep theirs."""
    message = HEAD + field(2, b"dns:b") + field(1, b"x") + field(2, b"dns:a")
    request = decode(bytearray(message), wire.ClientRequest)
    assert (request.server_name, request.identities) == ("x", ("dns:b", "dns:a"))


def test_defaults_are_left_out() -> None:
    """The shortest request is two bytes."""
    assert encode(wire.ClientRequest()) == HEAD
    assert decode(bytearray(HEAD), wire.ClientRequest) == wire.ClientRequest()


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
number = st.integers(0, 2**32 - 1)


@given(
    st.builds(
        wire.ClientRequest,
        server_name=st.none() | text,
        identities=st.lists(text, max_size=4).map(tuple),
        verify=st.booleans(),
        trust=st.none() | text,
        alpn=st.lists(st.binary(max_size=20), max_size=4).map(tuple),
        versions=st.lists(number, max_size=3).map(tuple),
        timeout=st.integers(1, MAX_MILLISECONDS).map(lambda n: n / 1000),
        pins=st.lists(st.binary(min_size=32, max_size=32), max_size=2).map(tuple),
    )
)
def test_requests_come_back(request: wire.ClientRequest) -> None:
    """Whatever is asked for is what is read."""
    assert decode(encode(request), *ALL) == request
    assert hash(decode(encode(request), *ALL)) == hash(request)


@given(st.builds(wire.Kernel, suite=number, state=st.binary(max_size=99).map(bytearray)))
def test_replies_come_back(reply: wire.Kernel) -> None:
    """So are replies."""
    assert decode(encode(reply), *ALL) == reply


@given(st.binary(max_size=200))
def test_anything(raw: bytes) -> None:
    """Whatever comes is a message, or refused in so many words."""
    for start in (b"", *(bytes([VERSION, kind]) for kind in Message.kinds)):
        try:
            message = decode(bytearray(start + raw), *ALL)
        except AgentError as exc:
            assert "malformed" in str(exc)
        else:
            assert decode(encode(message), *ALL) == message


@given(st.data())
def test_mutated(data: st.DataObject) -> None:
    """So is what was a message once."""
    raw = encode(wire.ServerRequest(key_pair="k", alpn=(b"h2",), client_required=True, timeout=9))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    with_cut = raw[: data.draw(st.integers(0, len(raw)))]
    for one in (raw, with_cut):
        try:
            decode(one, *ALL)
        except AgentError as exc:
            assert "malformed" in str(exc)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param(b"", "unpack", id="empty"),
        pytest.param(b"\x01", "unpack", id="one-byte"),
        pytest.param(b"\x02\x02", "version 2, not 1", id="version"),
        pytest.param(b"\x01\x63", "kind 99", id="kind"),
        pytest.param(HEAD + field(200, b""), "tag 200", id="tag"),
        pytest.param(HEAD + field(1, b"a") * 2, "occurs twice", id="twice"),
        pytest.param(HEAD + field(1, b"abc")[:-1], "beyond the end", id="cut"),
        pytest.param(HEAD + b"\x01\0", "unpack", id="cut-in-the-length"),
        pytest.param(HEAD + field(1, b"a\0b"), "NUL", id="nul"),
        pytest.param(HEAD + field(3, b"\2"), "malformed", id="no-flag"),
        pytest.param(HEAD + field(3, b""), "malformed", id="empty-flag"),
        pytest.param(HEAD + field(6, b"\0\0\3"), "unpack", id="short-number"),
        pytest.param(HEAD + field(8, bytes(4)), "0 milliseconds", id="no-time"),
        pytest.param(HEAD + field(8, b"\xff" * 4), "milliseconds", id="too-much-time"),
    ],
)
def test_malformed(raw: bytes, why: str) -> None:
    """Each fault is named."""
    with pytest.raises(AgentError, match=why) as caught:
        decode(bytearray(raw), *ALL)
    assert not caught.value.untouched


def test_not_what_was_expected() -> None:
    """A message of another kind is no better than a malformed one."""
    with pytest.raises(AgentError, match="kind 1"):
        decode(encode(wire.Open()), wire.ClientRequest)


def test_what_has_to_be_there() -> None:
    """A reply without its suite is none."""
    with pytest.raises(AgentError, match="malformed"):
        decode(bytearray([VERSION, wire.Kind.KERNEL]), wire.Kernel)


@pytest.mark.parametrize(
    "values", [{"server_name": "\ud800"}, {"versions": (-1,)}, {"versions": (2**32,)}]
)
def test_what_cannot_be_written(values: dict[str, Any]) -> None:
    """Nothing is sent that could not be read."""
    with pytest.raises(ConfigError, match="cannot be sent"):
        encode(wire.ClientRequest(**values))


def test_too_long() -> None:
    """Messages are bounded."""
    with pytest.raises(ConfigError, match="too much for one message"):
        encode(wire.ClientRequest(trust="x" * wire.MAX_REQUEST))


def test_unknown_name() -> None:
    """A field that is not there cannot be given."""
    with pytest.raises(TypeError):
        wire.Open(nonsense=1)


def test_secrets_are_not_shown() -> None:
    """The state stays out of logs and tracebacks."""
    assert "secret" not in repr(wire.Kernel(suite=1, state=bytearray(b"secret")))
    assert "suite=1" in repr(wire.Kernel(suite=1, state=bytearray(b"secret")))


def test_tags_are_unambiguous() -> None:
    """No message has two fields of one tag."""
    for message in ALL:
        assert len(message.by_tag) == len(message.table), message
