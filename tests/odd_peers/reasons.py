"""Why a carrier may do otherwise than another: what docs/differences.md says."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """A cause that several scenarios share: what it is called, and a paragraph about it."""

    def __init__(self, title: str, text: str) -> None:
        """Store both."""
        self.title, self.text = title, text

    NO_REKEY = (
        "A KeyUpdate before Linux 6.14",
        """\
Kernels before Linux 6.14 cannot change a key. A peer's KeyUpdate ends the connection there:
`internal_error` to the peer, `KeyUpdateRefused` to the program
([handoff.md](handoff.md#keyupdate)).""",
    )
    ONE_ERRNO = (
        "Records that the kernel refuses",
        """\
The kernel has one errno (EBADMSG) for every record that it refuses, and tlsify answers it with
`bad_record_mac`. RFC 8446 5 and 5.4 name `unexpected_message` for a record without a content
type and for an unprotected one, which the kernel does not distinguish from a forged one. The
connection ends at once on either carrier.""",
    )
    NO_RECORD = (
        "Bytes that are no record",
        """\
No RFC names the alert for bytes that are no record. OpenSSL and the kernel find different faults
in them first.""",
    )
    PATIENCE = (
        "OpenSSL's patience",
        """\
OpenSSL ends the connection after more than 32 empty records or 4 warnings in a row, and after an
unrequested TLS 1.2 warning `no_renegotiation`. The kernel path counts such records together with
tickets and KeyUpdates. For these the limit is the same on either carrier: 64 at once, and one
more for each 64 KiB and each second; a KeyUpdate that requests another counts twice. Empty
records that the kernel skips by itself do not count.""",
    )
    HALF_MESSAGE = (
        "An end inside a handshake message",
        """\
After a part of a peer's handshake message OpenSSL sends nothing: plaintext waits for the rest. A
peer that ends its own direction there receives nothing more from the relay, not even
close_notify. The kernel path continues to send.""",
    )
    COMPATIBLE = (
        "An unprotected ChangeCipherSpec",
        """\
RFC 8446 5 requires that an unprotected ChangeCipherSpec is refused after the handshake. OpenSSL
refuses it as a server, and ignores it as a client. The kernel treats it as a forged record.""",
    )
    LENGTH = (
        "Messages longer than their type can be",
        """\
OpenSSL refuses a message that is too long for its type as soon as it has the header, with
`illegal_parameter`. The kernel path reads it, and answers with `decode_error`, as RFC 8446 6.2
specifies for a wrong length.""",
    )
    TLS12_KEY_UPDATE = (
        "The beginning of a KeyUpdate in TLS 1.2",
        """\
TLS 1.2 has no KeyUpdate. The kernel path refuses one at its first byte; OpenSSL first waits for
the rest.""",
    )
    TLS12_EMPTY = (
        "Empty handshake records in TLS 1.2",
        """\
RFC 5246 6.2.1 forbids sending empty handshake records, and leaves the receiver's reaction open.
OpenSSL ignores them; the kernel path refuses them as in TLS 1.3.""",
    )
    FATAL_CLOSE = (
        "close_notify at level fatal",
        """\
In TLS 1.2 OpenSSL treats a close_notify at level fatal as the end of both directions: the relay
sends no more data. The peer's stream is complete, and the program sees its clean end on either
carrier.""",
    )
    PADDING = (
        "Padding beyond the limit",
        """\
OpenSSL accepts up to 2^14 bytes of content, and padding behind them. RFC 8446 5.4 limits both
together, with the content type, to 2^14 + 1 bytes, and so does the kernel.""",
    )
    BEHIND_OURS = (
        "A bad record behind our close_notify",
        """\
After our own close_notify no alert is sent, and OpenSSL does not reveal the one that would have
been.""",
    )
    TICKETS = (
        "Tickets without resumption",
        """\
As a TLS 1.3 server the relay sends two tickets even with resumption off: OpenSSL makes them at
the end of the handshake, and pyOpenSSL and cryptography lack the function that prevents it
(`SSL_CTX_set_num_tickets`). They resume nothing, and have a lifetime of one second. The kernel
path sends none.""",
    )
