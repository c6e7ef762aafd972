"""Messages between requester and agent, byte by byte (docs/agent.md)."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import ClassVar

from tlsify.agent.fields import (
    BYTES,
    FLAG,
    SECONDS,
    SECRET,
    TEXT,
    WHOLE,
    Message,
    decode,
    encode,
    one,
    several,
)

__all__ = ["decode", "encode"]

# Most bytes of one message: to the agent, and from it. They hold the longest names and the largest
# certificate that OpenSSL takes (100 KiB).
MAX_REQUEST = 2**16
MAX_REPLY = 2**17
# The requester's only other message: the coming end of a relayed connection's data is an orderly
# one.
IN_ORDER = b"in order"


class Kind(IntEnum):
    """Kind of a message: its second byte."""

    OPEN = 1
    CONNECT = 2
    ACCEPT = 3
    KERNEL = 16
    RELAY = 17
    FAILED = 18
    ENDED = 19


class Open(Message):
    """On an inherited socketpair: here is a channel for one session; comes with its descriptor."""

    limit: ClassVar[int] = MAX_REQUEST
    kind: ClassVar[int] = Kind.OPEN


class Request(Message):
    """Fields of both roles' requests, sent with the connected socket; `KtlsPolicy` has the policy.

    Paths are absolute: the agent reads the files, as the user that it shares with the requester.

    Attributes:
        alpn: protocols, most wanted first.
        versions: wire numbers of protocol versions; none stands for all.
        aeads: names of record protection (`codepoints.Aead`); none stands for the usual ones.
        groups: for the key exchange, as `ClientConfig` has them; none leaves it to OpenSSL.
        timeout: seconds for the whole handshake.
        ktls: "auto", "require" or "off".
        rekey_required: do not offload TLS 1.3 where the kernel cannot follow a KeyUpdate.
        any_kernel: offload even on a kernel known to be bad.
        crls: file of revocation lists for the peer's certificate.
        crl_check_all: every issuer on its path must have one.
        key_log: file to append the handshake's secrets to.
    """

    limit: ClassVar[int] = MAX_REQUEST
    alpn: tuple[bytes, ...] = several(5, BYTES, default=())
    versions: tuple[int, ...] = several(6, WHOLE, default=())
    aeads: tuple[str, ...] = several(7, TEXT, default=())
    groups: tuple[str, ...] = several(15, TEXT, default=())
    timeout: float = one(8, SECONDS, default=30.0)
    ktls: str = one(32, TEXT, default="auto")
    rekey_required: bool = one(33, FLAG, default=False)
    any_kernel: bool = one(34, FLAG, default=False)
    crls: str | None = one(13, TEXT, default=None)
    crl_check_all: bool = one(20, FLAG, default=False)
    key_log: str | None = one(14, TEXT, default=None)


class ClientRequest(Request):
    """A client's handshake (`ClientConfig`).

    Attributes:
        server_name: sent as SNI; None sends none.
        identities: spelled as `ReferenceIdentifier.parse` reads them.
        verify: False accepts any certificate.
        trust: file or folder of trust anchors; None stands for the system's.
        session_store: private folder to resume from.
        certificate: file with the client's own chain, along with ``key``.
        key: file with its private key.
        pins: SHA-256 of SubjectPublicKeyInfo, 32 bytes each.
    """

    kind: ClassVar[int] = Kind.CONNECT
    server_name: str | None = one(1, TEXT, default=None)
    identities: tuple[str, ...] = several(2, TEXT, default=())
    verify: bool = one(3, FLAG, default=True)
    trust: str | None = one(4, TEXT, default=None)
    session_store: str | None = one(9, TEXT, default=None)
    certificate: str | None = one(10, TEXT, default=None)
    key: str | None = one(11, TEXT, default=None)
    pins: tuple[bytes, ...] = several(12, BYTES, default=())


class ServerRequest(Request):
    """A server's handshake (`ServerConfig`).

    Attributes:
        key_pair: the certificate's file as the agent's command line has it; None for its first.
        client_trust: file or folder where the path of a client's certificate must end.
        client_required: refuse clients that show no certificate.
        client_identities: identities to accept, spelled as in `ClientRequest`.
    """

    kind: ClassVar[int] = Kind.ACCEPT
    key_pair: str | None = one(16, TEXT, default=None)
    client_trust: str | None = one(17, TEXT, default=None)
    client_required: bool = one(18, FLAG, default=False)
    client_identities: tuple[str, ...] = several(19, TEXT, default=())


class Outcome(Message):
    """Outcome of a handshake, as in `Negotiated`; the suite as its IANA number."""

    limit: ClassVar[int] = MAX_REPLY
    suite: int = one(64, WHOLE)
    alpn: bytes | None = one(65, BYTES, default=None)
    server_name: str | None = one(66, TEXT, default=None)
    group: str = one(68, TEXT, default="")
    resumed: bool = one(69, FLAG, default=False)
    max_fragment_length: int | None = one(70, WHOLE, default=None)


class Kernel(Outcome):
    """The requester's own descriptor speaks plaintext now.

    Attributes:
        state: what `adopt` takes; the peer's certificate is in it, and the traffic secrets.
    """

    kind: ClassVar[int] = Kind.KERNEL
    state: bytearray = one(80, SECRET)


class Relayed(Outcome):
    """The agent carries the connection; comes with the program's end of it. See `Reason`.

    Attributes:
        certificate: the peer's leaf in DER.
        code: why it is relayed.
        sentence: likewise, in words.
        hint: what would change it.
    """

    kind: ClassVar[int] = Kind.RELAY
    certificate: bytes | None = one(67, BYTES, default=None)
    code: str = one(81, TEXT)
    sentence: str = one(82, TEXT)
    hint: str | None = one(83, TEXT, default=None)


class Trouble(Message):
    """An error, attribute by attribute; which ones there are is up to its class."""

    limit: ClassVar[int] = MAX_REPLY
    error: int = one(96, WHOLE, default=0)
    message: str = one(97, TEXT, default="")
    hint: str | None = one(98, TEXT, default=None)
    alert: int | None = one(99, WHOLE, default=None)
    mismatches: tuple[str, ...] = several(100, TEXT, default=())
    step: str | None = one(101, TEXT, default=None)
    errno: int | None = one(102, WHOLE, default=None)
    code: str | None = one(103, TEXT, default=None)
    sentence: str | None = one(104, TEXT, default=None)
    untouched: bool = one(105, FLAG, default=False)


class Failed(Trouble):
    """There is no connection, and why."""

    kind: ClassVar[int] = Kind.FAILED


class Ended(Trouble):
    """End of the peer's direction of a relayed connection; error 0: a clean end."""

    kind: ClassVar[int] = Kind.ENDED


@lru_cache(2**6)
def encode_request(request: Request) -> bytes:
    """Encode a request as `encode` does; requesters often send the same one."""
    return bytes(encode(request))


@lru_cache(2**6)
def decode_request(raw: bytes) -> Request:
    """Decode a request as `decode` does; requesters often send the same one."""
    return decode(bytearray(raw), ClientRequest, ServerRequest)
