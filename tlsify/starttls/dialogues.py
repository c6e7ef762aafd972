"""Dialogues that ask a server, in its own protocol, to change to TLS.

Each dialogue is a generator without I/O: it says what to send, and how much to read. Those of
protocols that talk in lines come from one table.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from xml.parsers import expat

from tlsify.errors import HandshakeError
from tlsify.names import to_unicode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# The longest line, element or packet: what IMAP allows for (RFC 9051 4).
LONGEST = 2**13
# How much of what a server said an error shows.
SHOWN = 120


class Read(NamedTuple):
    """Asks for so many bytes; with a mark, for fewer if they end with that one byte."""

    size: int
    mark: bytes = b""


_LINE = Read(LONGEST, b"\n")
_TAG = Read(LONGEST, b">")

# Yields what to send, or what to read, which is sent back in. Returns once the server expects a
# ClientHello, or raises HandshakeError.
Dialogue: TypeAlias = "Generator[bytes | Read, bytes, None]"

# A hint.
SOMETHING_ELSE = "check host and port; the server may speak another protocol, or TLS from the start"


def quote(said: bytes | bytearray) -> str:
    """Return a server's text for messages, in printable ASCII and shortened."""
    return repr(bytes(said[:SHOWN]))[1:] + ("..." if len(said) > SHOWN else "")


def _refused(said: bytes) -> HandshakeError:
    said = said.rstrip(b"\r\n")
    return HandshakeError(f"starttls: the server refuses to change to TLS: {quote(said)}")


def _foreign(said: bytes) -> HandshakeError:
    said = said.rstrip(b"\r\n")
    return HandshakeError(
        f"starttls: the server speaks another protocol: {quote(said)}", hint=SOMETHING_ELSE
    )


def _not_offered() -> HandshakeError:
    return HandshakeError(
        "starttls: the server does not offer TLS here",
        hint="check its configuration; an attacker in between may have removed the offer",
    )


# -- protocols that talk in lines


class _Step(NamedTuple):
    """A request, unless the server speaks first, and the reply to it.

    Attributes:
        send: the request, with ``%s`` for our own name.
        last: the line that ends the reply; a regular expression, like the next two.
        good: what that line has to be for us to go on.
        offer: what one of the lines has to be.
    """

    send: str
    last: str
    good: str
    offer: str = ""


class _Talk(NamedTuple):
    """What every reply begins with, and the steps."""

    first: str
    steps: tuple[_Step, ...]


def _talk(first: str, *steps: tuple[str, ...]) -> _Talk:
    return _Talk(first, tuple(_Step(*step) for step in steps))


_CODE, _END = r"\d{3}(?:[ -]|$)", r"\d{3}(?: |$)"
_SIEVE = r"(?:OK|NO|BYE)\b"
_IRC = r"(?:@\S+ +)?(?::\S+ +)?"


def _mail(hello: str) -> _Talk:
    offer = r"250[ -]STARTTLS *$"
    steps = ("", _END, "220"), (f"{hello} %s", _END, "250", offer), ("STARTTLS", _END, "220")
    return _talk(_CODE, *steps)


_TALKS = {
    "smtp": _mail("EHLO"),  # RFC 3207
    "lmtp": _mail("LHLO"),  # RFC 2033
    "ftp": _talk(_CODE, ("", _END, "220"), ("AUTH TLS", _END, "234")),  # RFC 4217
    "imap": _talk(  # RFC 9051 6.2.1; after PREAUTH it is too late to change
        r"\* |[ab] ",
        ("", "", r"\* OK\b"),
        ("a CAPABILITY", r"a |\* BYE\b", r"a OK\b", r"\* CAPABILITY .*\bSTARTTLS\b"),
        ("b STARTTLS", r"b |\* BYE\b", r"b OK\b"),
    ),
    "pop3": _talk(  # RFC 2595 4
        r"\+OK|-ERR",
        ("", "", r"\+OK"),
        ("CAPA", r"\.$|-ERR", r"\.$", "STLS *$"),
        ("STLS", "", r"\+OK"),
    ),
    "nntp": _talk(  # RFC 4642
        _CODE,
        ("", "", "20[01]"),
        ("CAPABILITIES", r"\.$|[2-5]\d\d ", r"\.$", "STARTTLS *$"),
        ("STARTTLS", "", "382"),
    ),
    "sieve": _talk(  # RFC 5804 2.2
        f'"|{_SIEVE}', ("", _SIEVE, r"OK\b", '"STARTTLS"'), ("STARTTLS", _SIEVE, r"OK\b")
    ),
    # IRCv3 tls. To ask with CAP LS would hold back the registration until the program says CAP END.
    "irc": _talk("", ("STARTTLS", rf"{_IRC}(?:[4-9]\d\d|ERROR)\b", rf"{_IRC}670\b")),
}


def _in_lines(talk: _Talk, _server: str, own_name: str) -> Dialogue:
    for step in talk.steps:
        if step.send:
            yield step.send.replace("%s", own_name).encode() + b"\r\n"
        line = yield _LINE
        if not _matches(talk.first, line):
            raise _foreign(line)
        offered = _matches(step.offer, line)
        while not _matches(step.last, line):
            line = yield _LINE
            offered = offered or _matches(step.offer, line)
        if not _matches(step.good, line):
            raise _refused(line)
        if not offered:
            raise _not_offered()


def _matches(pattern: str, line: bytes) -> bool:
    return re.match(pattern, line.decode("latin-1").rstrip("\r\n"), re.IGNORECASE) is not None


# -- XMPP (RFC 6120 5.4)

_TLS = "urn:ietf:params:xml:ns:xmpp-tls"
_STREAMS = "http://etherx.jabber.org/streams"
_ESCAPED = {ord("&"): "&amp;", ord("<"): "&lt;", ord("'"): "&apos;"}


def _xmpp(content: str, server: str, _own_name: str) -> Dialogue:

    ended: set[str] = set()
    parser = expat.ParserCreate("utf-8", " ")
    parser.EndElementHandler = ended.add
    parser.StartDoctypeDeclHandler = _no_doctype
    stream = f"xmlns='{content}' xmlns:stream='{_STREAMS}' version='1.0'"
    to = to_unicode(server).translate(_ESCAPED)  # RFC 7622 3.2.1
    opening = f"<?xml version='1.0'?><stream:stream {stream} to='{to}'>"
    steps = (opening, f"{_STREAMS} features"), (f"<starttls xmlns='{_TLS}'/>", f"{_TLS} proceed")
    for request, wanted in steps:
        yield request.encode("utf-8", "replace")
        while wanted not in ended:
            said = yield _TAG
            try:
                parser.Parse(said)
            except expat.ExpatError as exc:
                raise _foreign(said) from exc
            if ended & {f"{_TLS} failure", f"{_STREAMS} error", f"{_STREAMS} stream"}:
                raise _refused(said)
        if f"{_TLS} starttls" not in ended:
            raise _not_offered()


def _no_doctype(*_: object) -> None:
    """Keep entities out, and with them what they can be expanded to (RFC 6120 11.1)."""
    raise _foreign(b"<!DOCTYPE")


# -- protocols that talk in packets


def _postgres(*_: str) -> Dialogue:
    """Send an SSLRequest (PostgreSQL's documentation, Message Flow, SSL Session Encryption)."""
    yield bytes.fromhex("00000008 04d2162f")
    answer = yield Read(1)
    if answer == b"N":
        raise _not_offered()
    if answer != b"S":
        raise _refused(answer) if answer == b"E" else _foreign(answer)


_CLIENT_SSL = 0x800
_OUR_FLAGS = _CLIENT_SSL | 0x200 | 0x8000  # CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION
_SSL_REQUEST = (
    _OUR_FLAGS.to_bytes(4, "little") + (2**24).to_bytes(4, "little") + b"\x2d" + bytes(23)
)
# Version 10, the server's name for itself, connection, challenge, filler; then its flags.
_GREETING = re.compile(rb"\n[^\0]*\0.{13}(..)", re.DOTALL)


def _mysql(*_: str) -> Dialogue:
    """Read the greeting, and send an SSLRequest (MySQL's documentation, Protocol::SSLRequest)."""
    header = yield Read(4)
    packet = yield Read(int.from_bytes(header[:3], "little"))
    if packet.startswith(b"\xff"):
        raise _refused(packet[3:])
    if (greeting := _GREETING.match(packet)) is None:
        raise _foreign(header + packet)
    if not int.from_bytes(greeting[1], "little") & _CLIENT_SSL:
        raise _not_offered()
    yield len(_SSL_REQUEST).to_bytes(3, "little") + b"\1" + _SSL_REQUEST


_SEQUENCE, _SHORT = 0x30, 0x7F  # the tag, and the longest length that BER writes in one byte
_STARTTLS_OID = b"1.3.6.1.4.1.1466.20037"
# Number of the message (0: a disconnection), tag and length of an extended response; its result.
_RESPONSE = re.compile(
    rb"\x02\x01[\x00\x01]\x78(?:[\x00-\x7f]|\x81.|\x82..|\x83...|\x84....)\x0a\x01(.)", re.DOTALL
)


def _ldap(*_: str) -> Dialogue:
    """Send an extended request (RFC 4511 4.14)."""
    yield b"\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + _STARTTLS_OID
    header = yield Read(2)
    if header[0] != _SEQUENCE:
        raise _foreign(header)
    size = header[1]
    if size > _SHORT:
        size = int.from_bytes((yield Read(size & _SHORT)), "big")
    body = yield Read(size)
    if (response := _RESPONSE.match(body)) is None:
        raise _foreign(body)
    if response[1] != b"\0":
        raise _refused(b"result %d, %s" % (response[1][0], body[response.end() :]))


# The dialogue, given the server's name and our own.
DIALOGUES: dict[str, Callable[[str, str], Dialogue]] = {
    **{protocol: partial(_in_lines, talk) for protocol, talk in _TALKS.items()},
    "xmpp": partial(_xmpp, "jabber:client"),
    "xmpp-server": partial(_xmpp, "jabber:server"),
    "postgres": _postgres,
    "mysql": _mysql,
    "mariadb": _mysql,
    "ldap": _ldap,
}
