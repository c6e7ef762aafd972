"""Messages made of tagged fields: strict, bounded, and quick to import."""

from __future__ import annotations

import struct
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NamedTuple,
    Self,
    TypeVar,
    dataclass_transform,
)

from tlsify import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = 1
MAX_MILLISECONDS = 10**9

_HEAD = struct.Struct("!BB")  # version, kind
_FIELD = struct.Struct("!BI")  # tag, length of the value
_NUMBER = struct.Struct("!I")
_MAX_NUMBER = 2**32 - 1
_BOOLEANS = {b"\0": False, b"\1": True}

M = TypeVar("M", bound="Message")


class _Form(NamedTuple):
    """Encoding of a value."""

    encode: Callable[[Any], bytes | bytearray]
    decode: Callable[[bytearray], Any]


def _decode_text(raw: bytearray) -> str:
    text = raw.decode("utf-8", "surrogateescape")
    if "\0" in text:
        raise ValueError("NUL in a text")
    return text


def _encode_number(number: int) -> bytes:
    if not 0 <= number <= _MAX_NUMBER:
        raise ValueError(f"the number {number}")
    return _NUMBER.pack(number)


def _decode_number(raw: bytearray) -> int:
    (number,) = _NUMBER.unpack(raw)
    return int(number)


def _encode_seconds(seconds: float) -> bytes:
    return _NUMBER.pack(min(max(1, round(seconds * 1000)), MAX_MILLISECONDS))


def _decode_seconds(raw: bytearray) -> float:
    number = _decode_number(raw)
    if not 0 < number <= MAX_MILLISECONDS:
        raise ValueError(f"{number} milliseconds")
    return number / 1000


# File names may be any bytes but NUL, hence surrogateescape.
TEXT = _Form(lambda text: text.encode("utf-8", "surrogateescape"), _decode_text)
BYTES = _Form(lambda raw: raw, bytes)
SECRET = _Form(lambda raw: raw, lambda raw: raw)
FLAG = _Form(lambda flag: b"\1" if flag else b"\0", lambda raw: _BOOLEANS[bytes(raw)])
WHOLE = _Form(_encode_number, _decode_number)
SECONDS = _Form(_encode_seconds, _decode_seconds)


class _Field(NamedTuple):
    """One kind of field that a message may have."""

    tag: int
    form: _Form
    default: Any
    many: bool


_MISSING = object()


def one(tag: int, form: _Form, default: Any = _MISSING) -> Any:
    """Declare a field that occurs once, or not at all if it has a default."""
    return _Field(tag, form, default, many=False)


def several(tag: int, form: _Form, default: tuple[()] = ()) -> Any:
    """Declare a field that occurs as often as it has values."""
    return _Field(tag, form, default, many=True)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(one, several))
class Message:
    """One message; its fields' tags and forms are all there is to know of its bytes.

    Attributes:
        kind: its number.
        limit: most bytes that it may have.

    No dataclass: to make one takes a millisecond each, which is a tenth of what a requester may
    need before its request is out.
    """

    kind: ClassVar[int]
    limit: ClassVar[int]
    kinds: ClassVar[dict[int, type[Message]]] = {}
    table: ClassVar[dict[str, _Field]] = {}
    by_tag: ClassVar[dict[int, str]] = {}

    def __init_subclass__(cls) -> None:
        """Collect the fields, and those with a kind of their own."""
        if "kind" in vars(cls):
            cls.kinds[cls.kind] = cls
        own = {name: at for name, at in vars(cls).items() if isinstance(at, _Field)}
        cls.table = cls.table | own
        cls.by_tag = {at.tag: name for name, at in cls.table.items()}

    def __init__(self, **values: Any) -> None:
        missing = [n for n, at in self.table.items() if at.default is _MISSING and n not in values]
        if missing or not values.keys() <= self.table.keys():
            raise TypeError(f"{type(self).__name__} of {', '.join(values)}")
        self.__dict__ |= {n: values.get(n, at.default) for n, at in self.table.items()}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        """Show what differs from the default, and is no secret."""
        shown = [
            f"{name}={value!r}"
            for name, value in self.__dict__.items()
            if value != self.table[name].default and self.table[name].form is not SECRET
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def but(self, **values: Any) -> Self:
        """Return the same message with other values."""
        return type(self)(**{**self.__dict__, **values})


def encode(message: Message) -> bytearray:
    """Encode a message; fields with their defaults are left out.

    Raises:
        ConfigError: a value cannot be written, or all of them are too much for one message.
    """
    pieces: list[bytes | bytearray] = [_HEAD.pack(VERSION, message.kind)]
    for name, at in message.table.items():
        value = getattr(message, name)
        if value == at.default:
            continue
        try:
            for one in value if at.many else (value,):
                raw = at.form.encode(one)
                pieces += (_FIELD.pack(at.tag, len(raw)), raw)
        except (ValueError, struct.error) as exc:
            raise errors.ConfigError(
                f"{name} cannot be sent to the agent", hint="spell it in UTF-8"
            ) from exc
    out = bytearray().join(pieces)  # made in one piece, it leaves none behind
    if len(out) > message.limit:
        raise errors.ConfigError(
            f"{len(out)} bytes are too much for one message",
            hint='name fewer or shorter things; "tlsify help docs/agent.md" has the limits',
        )
    return out


def decode(raw: bytearray, *expected: type[M]) -> M:
    """Read a message.

    Args:
        raw: whole.
        expected: its possible types.

    Raises:
        AgentError: it is something else, or malformed.
    """
    try:
        version, kind = _HEAD.unpack_from(raw)
        if version != VERSION:
            raise ValueError(f"version {version}, not {VERSION}")
        message = Message.kinds.get(kind)
        if message is None or not issubclass(message, expected):
            raise ValueError(f"kind {kind}")
        return message(**_values(message, raw))
    except (ValueError, KeyError, TypeError, struct.error) as exc:
        raise errors.AgentError(
            f"a malformed message came over the agent's socket: {exc}",
            untouched=False,
            hint="use the same version of tlsify on both sides",
        ) from exc


def _values(message: type[Message], raw: bytearray) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for tag, piece in _fields(raw):
        name = message.by_tag.get(tag)
        if name is None:
            raise ValueError(f"tag {tag} has no place in it")
        at = message.table[name]
        value = at.form.decode(piece)
        if at.many:
            values[name] = (*values.get(name, ()), value)
        elif name in values:
            raise ValueError(f"tag {tag} occurs twice")
        else:
            values[name] = value
    return values


def _fields(raw: bytearray) -> Iterator[tuple[int, bytearray]]:
    position = _HEAD.size
    while position < len(raw):
        tag, length = _FIELD.unpack_from(raw, position)
        position += _FIELD.size
        if length > len(raw) - position:
            raise ValueError(f"tag {tag} goes beyond the end")
        yield tag, raw[position : position + length]
        position += length
