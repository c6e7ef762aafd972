"""Tests of dialogues."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conversations import (
    CONVERSATIONS,
    FEATURES,
    GREETING,
    OWN,
    SERVER,
    Outcome,
    follow,
    packet,
    replies,
)
from tlsify.errors import HandshakeError
from tlsify.starttls.dialogues import DIALOGUES, LONGEST, SHOWN, quote

REFUSED = "the server refuses to change to TLS: "
FOREIGN = "the server speaks another protocol: "
NOT_OFFERED = "the server does not offer TLS here"
OTHER_PREFIXES = (
    b"<s:stream xmlns:s='http://etherx.jabber.org/streams'>\n<s:features>"
    b"<t:starttls xmlns:t='urn:ietf:params:xml:ns:xmpp-tls'/></s:features> \n"
    b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'\n>\n</proceed\n>"
)
EHLO = b"250-mail\r\n250 STARTTLS\r\n"


def talk(protocol: str, said: bytes) -> Outcome:
    """Run a protocol's dialogue on something that a server says."""
    return follow(DIALOGUES[protocol](SERVER, OWN), said)


def test_each_protocol_has_its_conversation() -> None:
    """Nothing is left out below."""
    assert set(CONVERSATIONS) == set(DIALOGUES)


@pytest.mark.parametrize("protocol", DIALOGUES)
def test_the_right_questions_are_asked(protocol: str) -> None:
    """A server that offers TLS is asked for it, and nothing behind its go-ahead is read."""
    asked = b"".join(question for question, _ in CONVERSATIONS[protocol])
    assert talk(protocol, replies(protocol) + b"\x16\x03") == (asked, b"\x16\x03", True)


@pytest.mark.parametrize("protocol", DIALOGUES)
def test_nothing_is_done_too_early(protocol: str) -> None:
    """However much of its last byte is missing, no server has given its go-ahead before it."""
    said = replies(protocol)
    for end in range(len(said)):
        assert not talk(protocol, said[:end]).done


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("smtp", b"220\r\n" + EHLO + b"220\r\n"),
        ("smtp", b"220 mail\n250-mail\n250-starttls \n250 HELP\n220 ok\n"),
        ("smtp", b"220 mail\r\n" + EHLO + b"220-not\r\n220 yet\r\n"),
        ("ftp", b"220 ready\r\n234-go\r\nahead\r\n234 now\r\n"),
        ("imap", b"* ok\r\n* CAPABILITY STARTTLS\r\nA ok\r\n* OK by the way\r\nb OK\r\n"),
        ("pop3", b"+OK\r\n+OK\r\nSTLS\r\n.\r\n+ok\r\n"),
        ("nntp", b"200 hello\r\n101 list\r\nSTARTTLS\r\n.\r\n382\r\n"),
        ("sieve", b'"starttls"\r\nok\r\nOK (WARNINGS) "go"\r\n'),
        ("irc", b"PING :123\r\n@time=12:00 :server 670 * :go\r\n"),
        ("irc", b"670 nick\r\n"),
        ("irc", b":670 NOTICE 451 :ERROR\r\n:x 020 * :wait\r\n:x 670\r\n"),
        ("xmpp", OTHER_PREFIXES),
        # What Active Directory says: every length in five bytes, and the name behind the result.
        (
            "ldap",
            bytes.fromhex("308400000028 020101 78840000001f 0a0100 0400 0400 8a16")
            + b"1.3.6.1.4.1.1466.20037",
        ),
        ("ldap", bytes.fromhex("30810d 020101 788107 0a0100 0400 0400")),
    ],
)
def test_unusual_but_right(protocol: str, said: bytes) -> None:
    """What servers may say is understood."""
    outcome = talk(protocol, said)
    assert outcome.done
    assert outcome.left == b""


@pytest.mark.parametrize(
    ("protocol", "said", "expected"),
    [
        ("smtp", b"554 5.7.1 go away\r\n", REFUSED + "'554 5.7.1 go away'"),
        ("smtp", b"220 mail\r\n502 what?\r\n", REFUSED + "'502 what?'"),
        ("smtp", b"220 mail\r\n250-mail\r\n250-AUTH PLAIN\r\n250 HELP\r\n", NOT_OFFERED),
        ("smtp", b"220 mail\r\n250-mail\r\n250 XSTARTTLS\r\n", NOT_OFFERED),
        ("smtp", b"220 mail\r\n" + EHLO + b"454 TLS is down\r\n", REFUSED + "'454 TLS is down'"),
        ("smtp", b"SSH-2.0-OpenSSH_9.2\r\n", FOREIGN + "'SSH-2.0-OpenSSH_9.2'"),
        ("smtp", b"220 mail\r\nwhat?\r\n", FOREIGN + "'what?'"),
        ("lmtp", b"220 mail\r\n250 mail\r\n", NOT_OFFERED),
        ("ftp", b"220 ready\r\n530 Please login\r\n", REFUSED + "'530 Please login'"),
        ("ftp", b"421 too many\r\n", REFUSED + "'421 too many'"),
        # A connection that is authenticated already: whoever is in between may have done so.
        ("imap", b"* PREAUTH welcome\r\n", REFUSED + "'* PREAUTH welcome'"),
        ("imap", b"* BYE full\r\n", REFUSED + "'* BYE full'"),
        ("imap", b"* OK\r\n* CAPABILITY IMAP4rev1\r\na OK\r\n", NOT_OFFERED),
        ("imap", b"* OK STARTTLS\r\na BAD what?\r\n", REFUSED + "'a BAD what?'"),
        ("imap", b"* OK\r\n* BYE bye\r\n", REFUSED + "'* BYE bye'"),
        ("imap", b"* OK\r\n* CAPABILITY STARTTLS\r\na OK\r\nb NO\r\n", REFUSED + "'b NO'"),
        ("imap", b"+OK POP3\r\n", FOREIGN + "'+OK POP3'"),
        ("pop3", b"-ERR busy\r\n", REFUSED + "'-ERR busy'"),
        ("pop3", b"+OK\r\n-ERR what?\r\n", REFUSED + "'-ERR what?'"),
        ("pop3", b"+OK\r\n+OK\r\nUSER\r\n.\r\n", NOT_OFFERED),
        ("pop3", b"+OK\r\n+OK\r\nSTLS\r\n.\r\n-ERR no\r\n", REFUSED + "'-ERR no'"),
        ("nntp", b"502 no\r\n", REFUSED + "'502 no'"),
        ("nntp", b"200 hi\r\n500 what?\r\n", REFUSED + "'500 what?'"),
        ("nntp", b"200 hi\r\n101 list\r\nREADER\r\n.\r\n", NOT_OFFERED),
        ("nntp", b"200 hi\r\n101 l\r\nSTARTTLS\r\n.\r\n580 no\r\n", REFUSED + "'580 no'"),
        ("sieve", b'"SIEVE" "fileinto"\r\nOK\r\n', NOT_OFFERED),
        ("sieve", b'BYE "full"\r\n', REFUSED + "'BYE \"full\"'"),
        ("sieve", b'"STARTTLS"\r\nOK\r\nNO "not now"\r\n', REFUSED + "'NO \"not now\"'"),
        ("sieve", b"* OK IMAP\r\n", FOREIGN + "'* OK IMAP'"),
        ("irc", b":x 691 * :TLS is down\r\n", REFUSED + "':x 691 * :TLS is down'"),
        ("irc", b":x 421 * STARTTLS :Unknown\r\n", REFUSED + "':x 421 * STARTTLS :Unknown'"),
        ("irc", b"ERROR :Closing link\r\n", REFUSED + "'ERROR :Closing link'"),
        ("postgres", b"N", NOT_OFFERED),
        ("postgres", b"E", REFUSED + "'E'"),
        ("postgres", b"H", FOREIGN + "'H'"),
        ("mysql", packet(b"\xff\x10\x04Too many connections"), REFUSED + "'Too many connections'"),
        ("mysql", packet(GREETING.replace(b"\xfe\xff", b"\xfe\xf7")), NOT_OFFERED),
        ("mysql", packet(b"\x09" + GREETING[1:]), FOREIGN),
        ("mysql", packet(GREETING[:34]), FOREIGN),
        ("mysql", packet(b""), FOREIGN),
        (
            "ldap",
            bytes.fromhex("3010 020101 780b 0a0134 0400 0404") + b"down",
            REFUSED + r"'result 52, \x04\x00\x04\x04down'",
        ),
        ("ldap", bytes.fromhex("300c 020100 7807 0a0134 0400 0400"), REFUSED),
        ("ldap", bytes.fromhex("300c 020102 7807 0a0100 0400 0400"), FOREIGN),
        ("ldap", bytes.fromhex("300c 020101 6107 0a0100 0400 0400"), FOREIGN),
        ("ldap", bytes.fromhex("3000"), FOREIGN),
        ("ldap", bytes.fromhex("3080"), FOREIGN),
        ("ldap", b"HT", FOREIGN + "'HT'"),
        ("xmpp", b"HTTP/1.1 400 Bad Request\r\n\r\n<html>", FOREIGN),
        ("xmpp", b"<!DOCTYPE s [<!ENTITY a 'b'>]><s>", FOREIGN + "'<!DOCTYPE'"),
        ("xmpp", FEATURES.replace(b"xmpp-tls", b"xmpp-sasl"), NOT_OFFERED),
        (
            "xmpp",
            FEATURES + b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>",
            REFUSED + "\"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\"",
        ),
        (
            "xmpp",
            FEATURES[: FEATURES.index(b"<stream:features")]
            + b"<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
            b"</stream:error>",
            REFUSED + "'</stream:error>'",
        ),
        ("xmpp", FEATURES + b"</stream:stream>", REFUSED + "'</stream:stream>'"),
    ],
)
def test_a_no_is_understood(protocol: str, said: bytes, expected: str) -> None:
    """A server that does not want to, or is something else, ends it with what it said."""
    with pytest.raises(HandshakeError) as caught:
        talk(protocol, said)
    message = str(caught.value)
    assert message.startswith("starttls: " + expected)
    assert "\n" not in message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a'><b&c", b"to='a&apos;>&lt;b&amp;c'>"),
        ("bücher.example", "to='bücher.example'>".encode()),
        ("xn--bcher-kva.example", "to='bücher.example'>".encode()),
        ("\udcff", b"to='?'>"),
    ],
)
def test_a_name_stays_a_name(name: str, expected: bytes) -> None:
    """What the user calls the server cannot be taken for markup, or fail to be encoded."""
    assert follow(DIALOGUES["xmpp"](name, OWN), b"").asked.endswith(expected)


@given(st.binary(max_size=2 * SHOWN))
def test_quotations_are_printable_and_bounded(said: bytes) -> None:
    """Nothing that a server says reaches a terminal as it is."""
    quoted = quote(said)
    assert set(quoted) <= set(string.printable) - set("\t\n\r\x0b\x0c")
    assert len(quoted) <= 4 * SHOWN + 5


# Whatever is said somewhere, in any order, whole or in part.
_PHRASES = sorted({line for name in DIALOGUES for line in replies(name).splitlines(keepends=True)})
phrases = st.sampled_from(_PHRASES)
sayings = st.lists(
    phrases
    | st.binary(max_size=20)
    | st.builds(lambda said, end: said[:end], phrases, st.integers(0, 60)),
    max_size=12,
).map(b"".join)


@pytest.mark.parametrize("protocol", DIALOGUES)
@settings(max_examples=60)
@given(said=sayings, after=st.booleans())
def test_anything_may_be_said(protocol: str, said: bytes, *, after: bool) -> None:
    """A dialogue comes to the go-ahead, wants to hear more, or fails as it should."""
    greeting = CONVERSATIONS[protocol][0][1] if after else b""
    try:
        outcome = talk(protocol, greeting + said)
    except HandshakeError:
        return
    assert outcome.done or len(outcome.left) < LONGEST
