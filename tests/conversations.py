"""What servers say that are asked to change to TLS, and what they should have been asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tlsify.starttls.dialogues import Dialogue

# The names that dialogues are given, and their conversations hold.
SERVER, OWN = "example.org", "[127.0.0.1]"

_STREAM = (
    b"<?xml version='1.0'?><stream:stream xmlns='%s' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='example.org'>"
)
_STARTTLS = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
FEATURES = (
    b'<?xml version="1.0"?><stream:stream xmlns="jabber:client" id="1" version="1.0" '
    b'xmlns:stream="http://etherx.jabber.org/streams"><stream:features>'
    b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
    b"</stream:features>"
)
_PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
_SSL_REQUEST = bytes.fromhex("20000001 008a0000 00000001 2d") + bytes(23)
# Its flags are 0xfffe, CLIENT_SSL (0x800) among them.
GREETING = (
    bytes.fromhex("0a") + b"5.5.5-10.11-MariaDB\0" + bytes(12) + b"\0\xfe\xff\x2d" + bytes(30)
)
_LDAP_REQUEST = bytes.fromhex("301d 020101 7718 8016") + b"1.3.6.1.4.1.1466.20037"
LDAP_SUCCESS = bytes.fromhex("300c 020101 7807 0a0100 0400 0400")


def packet(payload: bytes, number: int = 0) -> bytes:
    """Frame what a MySQL server says."""
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def _mail(hello: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"", b"220-mail.example.org\r\n220 ready\r\n"),
        (hello + b" [127.0.0.1]\r\n", b"250-mail\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250 HELP\r\n"),
        (b"STARTTLS\r\n", b"220 2.0.0 go ahead\r\n"),
    )


# What is asked, and what is answered; where nothing is asked the server speaks first.
CONVERSATIONS: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "smtp": _mail(b"EHLO"),
    "lmtp": _mail(b"LHLO"),
    "ftp": (
        (b"", b"220-welcome\r\n 2024 was good\r\n2020 was not\r\n220 ready\r\n"),
        (b"AUTH TLS\r\n", b"234 Proceed with negotiation.\r\n"),
    ),
    "imap": (
        (b"", b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n"),
        (b"a CAPABILITY\r\n", b"* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\na OK done\r\n"),
        (b"b STARTTLS\r\n", b"b OK begin\r\n"),
    ),
    "pop3": (
        (b"", b"+OK ready\r\n"),
        (b"CAPA\r\n", b"+OK\r\nTOP\r\nSTLS\r\nUSER\r\n.\r\n"),
        (b"STLS\r\n", b"+OK begin\r\n"),
    ),
    "nntp": (
        (b"", b"201 no posting\r\n"),
        (b"CAPABILITIES\r\n", b"101 list:\r\nVERSION 2\r\nREADER\r\nSTARTTLS\r\n.\r\n"),
        (b"STARTTLS\r\n", b"382 continue\r\n"),
    ),
    "sieve": (
        (b"", b'"IMPLEMENTATION" "none"\r\n"SIEVE" "fileinto"\r\n"STARTTLS"\r\nOK "ready"\r\n'),
        (b"STARTTLS\r\n", b'OK "begin"\r\n'),
    ),
    "irc": (
        (
            b"STARTTLS\r\n",
            b":example.org NOTICE * :*** Looking up\r\n:example.org 670 * :successful\r\n",
        ),
    ),
    "xmpp": ((_STREAM % b"jabber:client", FEATURES), (_STARTTLS, _PROCEED)),
    "xmpp-server": ((_STREAM % b"jabber:server", FEATURES), (_STARTTLS, _PROCEED)),
    "postgres": ((bytes.fromhex("00000008 04d2162f"), b"S"),),
    "mysql": ((b"", packet(GREETING)), (_SSL_REQUEST, b"")),
    "mariadb": ((b"", packet(GREETING)), (_SSL_REQUEST, b"")),
    "ldap": ((_LDAP_REQUEST, LDAP_SUCCESS),),
}


class Outcome(NamedTuple):
    """How far a dialogue came.

    Attributes:
        asked: all that it sent.
        left: what it did not read.
        done: whether it came to the go-ahead, and not to the end of what was said.
    """

    asked: bytes
    left: bytes
    done: bool


def follow(dialogue: Dialogue, said: bytes) -> Outcome:
    """Run a dialogue without a socket.

    Raises:
        HandshakeError: it has ended so.
    """
    asked = b""
    try:
        step = next(dialogue)
        while True:
            if isinstance(step, bytes):
                asked += step
                step = next(dialogue)
                continue
            size, mark = step
            found = said.find(mark, 0, size) + 1 if mark else 0
            end = found or size
            if len(said) < end:
                dialogue.close()
                return Outcome(asked, said, done=False)
            taken, said = said[:end], said[end:]
            step = dialogue.send(taken)
    except StopIteration:
        return Outcome(asked, said, done=True)


def replies(protocol: str) -> bytes:
    """Return all that the server says in a conversation."""
    return b"".join(answer for _, answer in CONVERSATIONS[protocol])
