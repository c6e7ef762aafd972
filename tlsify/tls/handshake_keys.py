"""The keys behind a finished handshake, each tried on what the engine has sealed."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

from tlsify.codepoints import CipherSuite, ContentType
from tlsify.errors import PeerMisbehaved, TlsifyError
from tlsify.keys import Keys, wipe
from tlsify.tls import schedule
from tlsify.tls.messages import encode_alert
from tlsify.tls.openssl import master_key
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import encode_plain_alert

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from OpenSSL import SSL

    from tlsify.codepoints import AlertDescription
    from tlsify.keys import TrafficKeys
    from tlsify.tls.schedule import KeyBlock


_LABELS = {b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"}


def secrets(key_log: Iterable[bytes]) -> dict[bytes, bytearray]:
    """Parse the application traffic secrets of a key log: label, client's random, secret.

    Source: RFC 9850 2. The other lines are not touched, and nothing is copied that is not returned.
    """
    found = {}
    for line in key_log:
        label = line[: line.index(b" ")]
        if label in _LABELS:
            secret = binascii.unhexlify(memoryview(line)[line.rindex(b" ") + 1 :])
            found[label] = bytearray(secret)
            wipe(secret)
    return found


def tls13_keys(
    suite: CipherSuite,
    tx_secret: bytearray,
    rx_secret: bytearray,
    sealed: Sequence[bytes],
    *,
    sent: int = 0,
) -> Keys:
    """Derive the keys of a TLS 1.3 connection, receiving from record 0 on.

    Args:
        suite: what was negotiated.
        tx_secret: application traffic secret of this side.
        rx_secret: that of the peer.
        sealed: records that the engine made with the TX key, to check it against.
        sent: how many of them the peer is sent, which is where sending goes on.

    Raises:
        TlsifyError: the TX key does not open the last of them.
    """
    tx = schedule.traffic_keys(suite, tx_secret, sent)
    rx = schedule.traffic_keys(suite, rx_secret)
    if sealed:  # the last one tells whether they were counted right, too
        _check_key(tx, len(sealed) - 1, sealed[-1])
    return Keys(tx, rx, tx_secret, rx_secret)


def tls12_block(connection: SSL.Connection, suite: CipherSuite) -> KeyBlock:
    """Expand the master secret of a TLS 1.2 connection.

    Raises:
        TlsifyError: OpenSSL does not tell it.
    """
    secret = master_key(connection)
    randoms = connection.client_random(), connection.server_random()
    if not secret or None in randoms:
        raise TlsifyError("OpenSSL does not tell the master secret and the randoms")
    block = schedule.key_block(suite, secret, *filter(None, randoms))
    wipe(secret)
    return block


def tls12_keys(
    suite: CipherSuite, block: KeyBlock, *, is_client: bool, sent: bytes, received: Sequence[bytes]
) -> Keys:
    """Assign the halves of a TLS 1.2 key block, each direction right behind its Finished.

    The block is wiped.

    Args:
        suite: what was negotiated.
        block: the expanded master secret.
        is_client: which half is whose.
        sent: this side's Finished record, to check the key against and count on from.
        received: the peer's Finished record, or those that it is spread over.

    Raises:
        TlsifyError: a key does not open its Finished.
    """
    client, server = (block.client_key, block.client_iv), (block.server_key, block.server_iv)
    ours, theirs = (client, server) if is_client else (server, client)
    tx = schedule.tls12_keys(suite, *ours, sent)
    rx = schedule.tls12_keys(suite, *theirs, received[-1], seq=len(received))
    wipe(*block)
    _check_key(tx, 0, sent)
    _check_key(rx, len(received) - 1, received[-1])
    return Keys(tx, rx, bytearray(), bytearray())


def refusal(
    server: SSL.Connection | None, key_log: Iterable[bytes], alert: AlertDescription
) -> bytes:
    """Write the fatal alert for a certificate that is refused.

    A client has protected nothing before it accepts the certificate, nor has a server of TLS 1.2.
    One of TLS 1.3 has its last key already, and this is the first record under it.

    Args:
        server: a server's connection; None for a client.
        key_log: OpenSSL's lines.
        alert: the reason.
    """
    if server is None:
        return encode_plain_alert(alert)
    secret = secrets(key_log).get(b"SERVER_TRAFFIC_SECRET_0")
    if secret is None:
        return encode_plain_alert(alert)
    suite = CipherSuite.from_openssl(server.get_cipher_name() or "")
    keys = schedule.traffic_keys(suite, secret)
    sealed = seal_record(keys, 0, ContentType.alert, encode_alert(alert))
    keys.wipe()
    wipe(secret)
    return sealed


def _check_key(keys: TrafficKeys, seq: int, record: bytes) -> None:
    """A wrong key must fail here, not as a broken connection in the kernel."""
    try:
        content_type, _ = open_record(keys, seq, record)
    except PeerMisbehaved as exc:
        raise TlsifyError(f"derived keys do not open record {seq}: {keys!r}") from exc
    if content_type != ContentType.handshake:
        raise TlsifyError(f"record {seq} opened by {keys!r} is no handshake record")
