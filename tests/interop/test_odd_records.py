"""Tests of odd records, permitted or not, with tlslite-ng, which sends what it is told."""

from __future__ import annotations

import contextlib
import socket
import warnings
from typing import TYPE_CHECKING

import pytest

from tests.doubles import Endpoint, new_session_ticket
from tests.interop.carriers import CARRIERS, MODES
from tests.interop.peers import accepted, listening, receive_exactly
from tests.interop.programs import PATIENCE, TIMEOUT
from tlsify.codepoints import AlertDescription, CipherSuite, ContentType, ProtocolVersion
from tlsify.config import KtlsPolicy
from tlsify.connection.establish import accept, connect
from tlsify.connection.handoff import Offload
from tlsify.connection.stream import TLSSocket
from tlsify.errors import HandshakeError, KeyUpdateRefused, PeerAlert, PeerMisbehaved
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities

with warnings.catch_warnings():
    # Before Python 3.12 it imports asyncore, which is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tlslite.api import (  # type: ignore[import-untyped]
        HandshakeSettings,
        TLSConnection,
        X509CertChain,
        parsePEMKey,
    )
    from tlslite.constants import KeyUpdateMessageType  # type: ignore[import-untyped]
    from tlslite.errors import TLSRemoteAlert  # type: ignore[import-untyped]
    from tlslite.messages import KeyUpdate, Message  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.peers import Site

pytestmark = [pytest.mark.each_kernel, pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_TLS13 = CipherSuite.TLS_AES_128_GCM_SHA256
_TLS12 = CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
_NOT_REQUESTED = KeyUpdateMessageType.update_not_requested
_REQUESTED = KeyUpdateMessageType.update_requested

# A few for all: how each is judged is tests/tls/test_session.py's.
_ERRORS = (
    AlertDescription.unexpected_message,
    AlertDescription.certificate_revoked,
    AlertDescription.no_application_protocol,
)

by_carrier = pytest.mark.parametrize("offload", CARRIERS)
# The kernel does not know which side it is.
_CLIENT = pytest.param(False, id="client", marks=pytest.mark.heavy)
by_role = pytest.mark.parametrize("peer_is_client", [pytest.param(True, id="server"), _CLIENT])
by_version = pytest.mark.parametrize("suite", [_TLS13, _TLS12], ids=lambda it: it.version.label)


@pytest.fixture(autouse=True)
def _probed() -> None:
    """Probe now: probing rekeys too, and moves the counters."""
    capabilities()


def _settings(suite: CipherSuite, tickets: int) -> HandshakeSettings:
    settings = HandshakeSettings()
    version = (3, 4) if suite.version is ProtocolVersion.TLSv1_3 else (3, 3)
    settings.minVersion = settings.maxVersion = version
    settings.cipherNames = ["aes128gcm"]
    settings.keyShares = ["secp256r1"]
    settings.ticket_count = tickets
    settings.ticketKeys = [bytearray(32)] if tickets else []
    return settings


class Meeting:
    """tlsify and tlslite over one connection; a few bytes in either direction fit its buffers."""

    def __init__(self, stream: TLSSocket, peer: TLSConnection) -> None:
        """Store both ends."""
        self.stream, self.peer = stream, peer

    def up(self, data: bytes) -> None:
        """Send data from tlslite to tlsify."""
        self.peer.write(data)
        assert receive_exactly(self.stream, len(data)) == data

    def down(self, data: bytes) -> None:
        """Send data from tlsify to tlslite."""
        self.stream.sendall(data)
        assert self.peer.read(min=len(data), max=len(data)) == data

    def send(self, content_type: int, payload: bytes) -> None:
        """Send one record from tlslite."""
        for _ in self.peer._sendMsg(Message(content_type, bytearray(payload)), update_hashes=False):
            pass

    def key_update(self, request: int = _NOT_REQUESTED) -> None:
        """Change tlslite's sending key."""
        for _ in self.peer.send_keyupdate_request(request):
            pass

    def turn_key(self) -> None:
        """Make tlslite send with its next key, after a KeyUpdate sent by hand."""
        session = self.peer.session
        layer = self.peer._recordLayer
        session.cl_app_secret, session.sr_app_secret = layer.calcTLS1_3KeyUpdate_reciever(
            session.cipherSuite, session.cl_app_secret, session.sr_app_secret
        )


@contextlib.contextmanager
def _meeting(
    site: Site, offload: Offload, suite: CipherSuite, *, peer_is_client: bool, tickets: int = 0
) -> Iterator[Meeting]:
    with listening() as listener:
        dialled = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        answered = accepted(listener)
    theirs, ours = (dialled, answered) if peer_is_client else (answered, dialled)
    peer = TLSConnection(theirs)
    peer.closeSocket = True

    def shake_hands() -> None:
        settings = _settings(suite, tickets)
        if peer_is_client:
            peer.handshakeClientCert(settings=settings, serverName="localhost")
        else:
            chain = X509CertChain()
            chain.parsePemList(site.ec.chain.read_text())
            key = parsePEMKey(site.ec.key.read_text(), private=True)
            peer.handshakeServer(certChain=chain, privateKey=key, settings=settings)

    other = Endpoint(shake_hands)
    policy = KtlsPolicy(MODES[offload])
    with theirs:
        if peer_is_client:
            handoff = accept(ours, site.server(suite), policy)
        else:
            handoff = connect(ours, site.client(suite), policy)
        with TLSSocket(handoff) as stream:
            other.result(PATIENCE)
            stream.settimeout(PATIENCE)
            assert stream.offload is offload
            yield Meeting(stream, peer)


@by_carrier
@by_role
@by_version
def test_data(offload: Offload, suite: CipherSuite, site: Site, *, peer_is_client: bool) -> None:
    """It talks with us at all, and both ends of stream are in order."""
    with _meeting(site, offload, suite, peer_is_client=peer_is_client) as met:
        met.up(b"up")
        met.down(b"down")
        met.stream.shutdown(socket.SHUT_WR)
        assert met.peer.read(max=9) == b""
        assert met.stream.recv(9) == b""


@by_carrier
@by_role
@pytest.mark.parametrize("request_update", [_NOT_REQUESTED, _REQUESTED])
def test_key_update(
    offload: Offload, request_update: int, site: Site, *, peer_is_client: bool
) -> None:
    """Its KeyUpdates are followed, and answered; it follows and answers ours."""
    before = tls_stat()
    with _meeting(site, offload, _TLS13, peer_is_client=peer_is_client) as met:
        met.up(b"one")
        met.key_update(request_update)
        if offload is Offload.KERNEL and not capabilities().rekey:
            with pytest.raises(KeyUpdateRefused):
                met.up(b"never")
            return
        met.up(b"two")
        met.down(b"and down")
        if offload is Offload.KERNEL:
            met.stream.handoff.key_update(request=True)
            met.down(b"with our key")
            met.up(b"behind its answer")
        met.key_update(request_update)
        met.up(b"last")
        met.down(b"last")
        requested = request_update == _REQUESTED
    if offload is Offload.KERNEL:
        now = tls_stat()
        assert now["TlsRxRekeyOk"] - before["TlsRxRekeyOk"] == 3
        assert now["TlsTxRekeyOk"] - before["TlsTxRekeyOk"] == 1 + 2 * requested
        assert now["TlsDecryptError"] == before["TlsDecryptError"]


@by_carrier
@pytest.mark.parametrize("tickets", [0, 1, 2, 4])
def test_tickets(offload: Offload, tickets: int, site: Site) -> None:
    """However many come in front of the data."""
    with _meeting(site, offload, _TLS13, peer_is_client=False, tickets=tickets) as met:
        met.up(b"data")
        met.down(b"data")
        for _ in range(tickets):
            met.send(ContentType.handshake, new_session_ticket())
            met.up(b"x")


@by_carrier
def test_fragmented_and_coalesced(offload: Offload, site: Site) -> None:
    """Tickets over several records, several in one, and a KeyUpdate behind or in pieces."""
    ticket, update = new_session_ticket(), bytes(KeyUpdate().create(_NOT_REQUESTED).write())
    with _meeting(site, offload, _TLS13, peer_is_client=False) as met:
        for cut in (1, 4, 9, len(ticket) - 1):
            met.send(ContentType.handshake, ticket[:cut])
            met.send(ContentType.handshake, ticket[cut:])
            met.up(b"x")
        met.send(ContentType.handshake, ticket * 3)
        met.up(b"x")
        met.send(ContentType.handshake, ticket * 2 + ticket[:7])
        met.send(ContentType.handshake, ticket[7:])
        met.up(b"x")
        if offload is Offload.KERNEL and not capabilities().rekey:
            return
        for pieces in ((ticket + update,), (update[:1], update[1:]), (update[:4], update[4:])):
            for piece in pieces:
                met.send(ContentType.handshake, piece)
            met.turn_key()
            met.up(b"x")
        met.down(b"down")


@by_carrier
@by_role
@by_version
@pytest.mark.parametrize("number", [1, 8, 20, 24, 99])
def test_other_messages(
    offload: Offload, suite: CipherSuite, number: int, site: Site, *, peer_is_client: bool
) -> None:
    """What has no place after the handshake ends the connection, or is declined in TLS 1.2."""
    with _meeting(site, offload, suite, peer_is_client=peer_is_client) as met:
        met.up(b"data")
        met.send(ContentType.handshake, bytes([number, 0, 0, 1, 7]))
        with contextlib.suppress(HandshakeError):
            met.peer.write(b"x")
            if met.stream.recv(1) == b"x":
                assert (suite, number, peer_is_client) == (_TLS12, 1, True)
                return
        with pytest.raises(PeerMisbehaved):
            met.stream.recv(1)
        with pytest.raises(TLSRemoteAlert):
            met.peer.read(min=1, max=1)


@pytest.mark.ktls
@by_role
@by_version
def test_alerts_that_are_ignored(suite: CipherSuite, site: Site, *, peer_is_client: bool) -> None:
    """TLS 1.2 warnings of every description, and user_canceled, are passed over."""
    is_tls13 = suite.version is ProtocolVersion.TLSv1_3
    with _meeting(site, Offload.KERNEL, suite, peer_is_client=peer_is_client) as met:
        for description in AlertDescription:
            if description is AlertDescription.close_notify:
                continue
            if not is_tls13 or description is AlertDescription.user_canceled:
                met.send(ContentType.alert, bytes([1, description]))
                met.up(b"data")
        met.send(ContentType.alert, bytes([2, AlertDescription.close_notify]))
        assert met.stream.recv(9) == b""


@by_carrier
@by_version
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("description", _ERRORS, ids=lambda it: it.name)
def test_alerts_that_are_not(
    offload: Offload, suite: CipherSuite, level: int, description: AlertDescription, site: Site
) -> None:
    """Any other ends the connection, in TLS 1.3 whatever level it claims."""
    with _meeting(site, offload, suite, peer_is_client=True) as met:
        met.send(ContentType.alert, bytes([level, description]))
        if suite.version is ProtocolVersion.TLSv1_2 and level == 1:
            met.up(b"data")
            return
        with pytest.raises(PeerAlert, match=description.name):
            met.stream.recv(9)


@by_carrier
@by_role
@by_version
def test_empty_records(
    offload: Offload, suite: CipherSuite, site: Site, *, peer_is_client: bool
) -> None:
    """Empty data is nothing, wherever it stands; an empty alert is an error."""
    with _meeting(site, offload, suite, peer_is_client=peer_is_client) as met:
        for _ in range(3):
            met.send(ContentType.application_data, b"")
        met.up(b"data")
        met.send(ContentType.application_data, b"")
        met.up(b"more")
        met.down(b"down")
        met.send(ContentType.alert, b"")
        with pytest.raises(PeerMisbehaved):
            met.stream.recv(9)


@pytest.mark.heavy
@by_carrier
@by_role
def test_long_transfer(offload: Offload, site: Site, *, peer_is_client: bool) -> None:
    """Both sides send at once, and change their keys all the while."""
    rounds = 60
    can = offload is Offload.RELAY or capabilities().rekey
    with _meeting(site, offload, _TLS13, peer_is_client=peer_is_client) as met:
        ours = offload is Offload.KERNEL and can

        def send() -> None:
            for number in range(rounds):
                met.stream.sendall(b"%06d" % number * 20)
                if ours and number % 5 == 0:
                    met.stream.handoff.key_update()

        sender = Endpoint(send)
        receiver = Endpoint(lambda: receive_exactly(met.stream, rounds * 6 * 20))
        received = b""
        for number in range(rounds):
            met.peer.write(b"%06d" % number * 20)
            if can and number % 5 == 0:
                met.key_update()
            received += bytes(met.peer.read(min=120, max=120))
        expected = b"".join(b"%06d" % number * 20 for number in range(rounds))
        assert received == expected
        assert receiver.result(PATIENCE) == expected
        sender.result(PATIENCE)
