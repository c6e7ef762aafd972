"""Greetings for clients whose server has greeted us instead, before TLS."""

from __future__ import annotations

from typing import NamedTuple

# The server's own greeting came in plaintext, and may be an attacker's words: clients get one of
# ours, which says nothing. What the server can do they ask inside TLS, as each of these RFCs wants.
_GREETINGS = {
    "smtp": b"220 tlsify ESMTP\r\n",  # RFC 5321 4.2
    "lmtp": b"220 tlsify LMTP\r\n",  # RFC 2033 4.1
    "imap": b"* OK tlsify\r\n",  # RFC 9051 7.1.1
    "pop3": b"+OK tlsify\r\n",  # RFC 1939 4
    "nntp": b"200 tlsify\r\n",  # RFC 3977 5.1
}


class Refusal(NamedTuple):
    """Why STARTTLS in a protocol is nothing that a program in between can do.

    Attributes:
        reason: in words.
        hint: a remedy.
    """

    reason: str
    hint: str


_OWN = "have the client itself speak TLS"
_GREETING_NEEDED = Refusal("what its server says before TLS is needed inside it", _OWN)
_REFUSALS = {
    "mysql": _GREETING_NEEDED,
    "mariadb": _GREETING_NEEDED,
    "ftp": Refusal("its data goes over connections of its own", _OWN),
}


def greeting(protocol: str) -> bytes:
    """Return what a client waits for that its server does not say again inside TLS."""
    return _GREETINGS.get(protocol, b"")


def refusal(protocol: str) -> Refusal | None:
    """Return why a protocol cannot be forwarded behind STARTTLS; None if it can."""
    return _REFUSALS.get(protocol)
