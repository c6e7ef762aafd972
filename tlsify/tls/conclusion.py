"""The conclusion of a handshake: what it has negotiated, and the keys behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlsify.codepoints import ContentType, ProtocolVersion
from tlsify.config import ClientConfig
from tlsify.errors import TlsifyError
from tlsify.tls import handshake_keys
from tlsify.tls.certificates import der
from tlsify.tls.negotiated import Negotiated
from tlsify.tls.openssl import session_reused
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from OpenSSL import SSL

    from tlsify.codepoints import CipherSuite
    from tlsify.config import ServerConfig
    from tlsify.keys import Keys


class Seen(NamedTuple):
    """What an engine has seen of a handshake, besides what OpenSSL's connection tells.

    Attributes:
        is_client: the role.
        server_name: SNI.
        max_fragment_length: in bytes.
        certificate: the peer's, in DER.
        config: the configuration.
        key_log: OpenSSL's lines; None where the keys are not wanted.
        last_flight: what this side has said last.
        received: the peer's last records, those since ChangeCipherSpec among them.
        tickets: records that OpenSSL has sealed with the application key.
        sends_tickets: whether the peer gets them.
    """

    is_client: bool
    server_name: str | None
    max_fragment_length: int | None
    certificate: bytes | None
    config: ClientConfig | ServerConfig
    key_log: Sequence[bytes] | None
    last_flight: bytes
    received: Sequence[bytes]
    tickets: Sequence[bytes]
    sends_tickets: bool


def conclude(
    connection: SSL.Connection, suite: CipherSuite, seen: Seen
) -> tuple[Negotiated, Keys | None]:
    """Return the outcome of a finished handshake, and its keys if they are wanted.

    Raises:
        TlsifyError: OpenSSL does not tell the secrets, or keys do not fit what it has sealed.
    """
    alpn = connection.get_alpn_proto_negotiated() if seen.config.alpn else b""
    negotiated = Negotiated(
        suite,
        alpn or None,
        seen.server_name,
        seen.certificate,
        connection.get_group_name() or "",
        session_reused(connection),
        seen.max_fragment_length,
        *(_chains(connection, seen) if seen.config.keep_chain else ()),
    )
    return negotiated, _keys(connection, suite, seen)


def _chains(connection: SSL.Connection, seen: Seen) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return the certificates that the peer has shown, and the path that was verified.

    Source: SSL_get_peer_cert_chain(3): a server does not find the client's own among them. After a
    resumption there is none but that.
    """
    if seen.certificate is None:
        return (), ()
    shown = tuple(map(der, connection.get_peer_cert_chain() or ()))
    if shown[:1] != (seen.certificate,):
        shown = (seen.certificate, *shown)
    config = seen.config
    if isinstance(config, ClientConfig) and not config.verify:
        return shown, shown
    return shown, tuple(map(der, connection.get_verified_chain() or ())) or shown[:1]


def _keys(connection: SSL.Connection, suite: CipherSuite, seen: Seen) -> Keys | None:
    if seen.key_log is None:
        return None
    if suite.version is ProtocolVersion.TLSv1_3:
        found = handshake_keys.secrets(seen.key_log)
        try:
            client, server = found[b"CLIENT_TRAFFIC_SECRET_0"], found[b"SERVER_TRAFFIC_SECRET_0"]
        except KeyError as exc:
            raise TlsifyError("OpenSSL's key log lacks a traffic secret") from exc
        ours, theirs = (client, server) if seen.is_client else (server, client)
        sent = len(seen.tickets) if seen.sends_tickets else 0
        return handshake_keys.tls13_keys(suite, ours, theirs, seen.tickets, sent=sent)
    return handshake_keys.tls12_keys(
        suite,
        handshake_keys.tls12_block(connection, suite),
        is_client=seen.is_client,
        sent=split_records(seen.last_flight)[-1],
        received=_behind_change_cipher_spec(seen.received),
    )


def _behind_change_cipher_spec(received: Sequence[bytes]) -> Sequence[bytes]:
    """Return the records that a TLS 1.2 peer has protected: it counts from there."""
    records = split_records(b"".join(received))
    kinds = [record[0] for record in reversed(records)]
    return records[len(records) - kinds.index(ContentType.change_cipher_spec) :]
