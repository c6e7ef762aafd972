"""A peer whose handshake is tlslite-ng's, in records as short as wanted; afterwards a RawPeer."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.doubles import RawPeer
from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.config import ServerConfig
from tlsify.keys import TrafficKeys
from tlsify.tls import schedule
from tlsify.tls.protection import open_record

with warnings.catch_warnings():
    # Before Python 3.12 it imports asyncore, which is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tlslite.api import (  # type: ignore[import-untyped]
        HandshakeSettings,
        TLSConnection,
        X509CertChain,
        parsePEMKey,
    )

if TYPE_CHECKING:
    import socket

    from tlsify.config import ClientConfig
    from tlsify.credentials.key_pair import KeyPair

_VERSIONS = {ProtocolVersion.TLSv1_2: (3, 3), ProtocolVersion.TLSv1_3: (3, 4)}


class ForeignPeer(RawPeer):
    """Has keys and numbers from a handshake of tlslite-ng's, and seals and opens by hand."""

    def __init__(
        self, sock: socket.socket, config: ClientConfig | ServerConfig, record_size: int
    ) -> None:
        """Do the handshake.

        Args:
            sock: connected.
            config: decides role, version and certificate.
            record_size: how much a record of the handshake holds at most.
        """
        self.sock = sock
        self._peer = TLSConnection(sock)
        self._peer.recordSize = record_size
        (version,) = config.versions
        settings = HandshakeSettings()
        settings.minVersion = settings.maxVersion = _VERSIONS[version]
        settings.cipherNames = ["aes128gcm"]
        settings.keyShares = ["secp256r1"]
        settings.ticket_count = 0
        is_client = not isinstance(config, ServerConfig)
        if isinstance(config, ServerConfig):
            self._serve(config.key_pair, settings)
        else:
            self._peer.handshakeClientCert(settings=settings)
        self._peer.sock.flush()
        session = self._peer.session
        suite = CipherSuite.from_number(session.cipherSuite)
        if version is ProtocolVersion.TLSv1_3:
            client, server = session.cl_app_secret, session.sr_app_secret
            self._tx_secret, self._rx_secret = map(
                bytearray, (client, server) if is_client else (server, client)
            )
            self._tx = schedule.traffic_keys(suite, bytes(self._tx_secret))
            self._rx = schedule.traffic_keys(suite, bytes(self._rx_secret))
        else:
            block = schedule.key_block(
                suite,
                bytes(session.masterSecret),
                bytes(self._peer._clientRandom),
                bytes(self._peer._serverRandom),
            )
            ours, theirs = (
                (block.client_key, block.client_iv),
                (block.server_key, block.server_iv),
            )[:: 1 if is_client else -1]
            layer = self._peer._recordLayer
            # Its explicit nonces are the numbers of its records.
            self._tx, self._rx = (
                TrafficKeys(suite, bytearray(key), bytearray(iv + seq.to_bytes(8, "big")), seq)
                for (key, iv), seq in (
                    (ours, layer._writeState.seqnum),
                    (theirs, layer._readState.seqnum),
                )
            )
        self._tx_seq, self._rx_seq = self._tx.seq, self._rx.seq
        self.negotiated = SimpleNamespace(suite=suite)  # type: ignore[assignment]

    def _serve(self, key_pair: KeyPair | None, settings: HandshakeSettings) -> None:
        assert key_pair is not None
        chain = X509CertChain()
        chain.parsePemList(key_pair.certificate_pem().decode())
        key = key_pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._peer.handshakeServer(
            certChain=chain,
            privateKey=parsePEMKey(key.decode(), private=True),
            settings=settings,
        )

    def recv_raw(self) -> bytes:
        """Receive one record; some of it tlslite-ng may have read already."""
        header = self._exactly(5)
        return header and header + self._exactly(int.from_bytes(header[3:5], "big"))

    def _exactly(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size and (more := self._peer.sock.recv(size - len(received))):
            received += more
        return bytes(received)

    def recv(self) -> tuple[int, bytes] | None:
        """Receive and open one record, whatever is in it; None at the end of the stream."""
        record = self.recv_raw()
        if not record:
            return None
        self._rx_seq += 1
        return open_record(self._rx, self._rx_seq - 1, record)
