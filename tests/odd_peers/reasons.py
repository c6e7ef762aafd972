"""Why a carrier may do otherwise than another: what docs/differences.md says."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """A cause that several scenarios share: what it is called, and a paragraph about it."""

    def __init__(self, title: str, text: str) -> None:
        """Take both."""
        self.title, self.text = title, text

    NO_REKEY = (
        "A KeyUpdate before Linux 6.14",
        """\
Kernels before Linux 6.14 cannot change a key. A peer's KeyUpdate ends the connection there:
`internal_error` to the peer, `KeyUpdateRefused` to the program
([handoff.md](handoff.md#keyupdate)).""",
    )
    ONE_ERRNO = (
        "Records that the kernel does not take",
        """\
The kernel has one errno (EBADMSG) for every record that it does not take, and tlsify answers
it with `bad_record_mac`. RFC 8446 5 and 5.4 name `unexpected_message` for a record without a
content type and for one without protection, which the kernel does not tell from a forged one.
The connection ends at once either way.""",
    )
    NO_RECORD = (
        "Bytes that are no record",
        """\
No RFC names the alert for bytes that are no record. OpenSSL and the kernel notice different
things about them first.""",
    )
    PATIENCE = (
        "OpenSSL's patience",
        """\
OpenSSL ends a peer that sends more than 32 empty records or 4 warnings in a row, and one that
sends a TLS 1.2 warning `no_renegotiation` unasked. The kernel path counts them together with
tickets and KeyUpdates, of which a peer may send as many by either carrier: 64 at once, and one
more for each 64 KiB and each second; a KeyUpdate that asks for one counts twice. Empty records
that the kernel passes over by itself are not among them.""",
    )
    HALF_MESSAGE = (
        "An end inside a handshake message",
        """\
While a handshake message of the peer's has come in part OpenSSL sends nothing: plaintext waits
for the rest. A peer that ends its own direction there gets nothing more from the relay, not
even close_notify. The kernel path sends on.""",
    )
    COMPATIBLE = (
        "An unprotected ChangeCipherSpec",
        """\
RFC 8446 5 wants an unprotected ChangeCipherSpec refused once the handshake is over. OpenSSL
does so as a server, and passes over it as a client. The kernel takes it for a forged record.""",
    )
    LENGTH = (
        "Messages longer than their type can be",
        """\
OpenSSL refuses a message that is longer than one of its type can be by its header, with
`illegal_parameter`. The kernel path reads it, and says `decode_error`, as RFC 8446 6.2 has it
for a wrong length.""",
    )
    TLS12_KEY_UPDATE = (
        "The beginning of a KeyUpdate in TLS 1.2",
        """\
TLS 1.2 has no KeyUpdate. The kernel path refuses one by its first byte; OpenSSL waits for the
rest of it first.""",
    )
    TLS12_EMPTY = (
        "Empty handshake records in TLS 1.2",
        """\
RFC 5246 6.2.1 forbids to send empty handshake records, and does not say what comes of one that
was received. OpenSSL passes over it; the kernel path refuses it as in TLS 1.3.""",
    )
    FATAL_CLOSE = (
        "close_notify at level fatal",
        """\
In TLS 1.2 OpenSSL takes a close_notify at level fatal for the end of both directions: the
relay sends nothing any more. The peer's stream is whole, and the program is told so on either
carrier.""",
    )
    PADDING = (
        "Padding beyond the limit",
        """\
OpenSSL takes up to 2^14 bytes of content with padding behind them. RFC 8446 5.4 limits both
together to 2^14 + 1 bytes with the content type, and so does the kernel.""",
    )
    BEHIND_OURS = (
        "A bad record behind our close_notify",
        """\
Behind our own close_notify no alert is sent. Which one it would have been, OpenSSL does not
tell.""",
    )
    TICKETS = (
        "Tickets without resumption",
        """\
As a TLS 1.3 server the relay sends two tickets also where resumption is off: OpenSSL makes
them with the end of the handshake, and pyOpenSSL and cryptography have no way to keep it from
that (`SSL_CTX_set_num_tickets`). They resume nothing, and say that they are good for one
second. The kernel path sends none.""",
    )
