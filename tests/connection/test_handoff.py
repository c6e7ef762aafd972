"""Tests of handoff: one suite for both offloads, and the decision between them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    OFFLOADS,
    RELAY,
    VERSIONS,
    Endpoint,
    Lab,
    Middleman,
    RawPeer,
    check_descriptors,
    descriptors,
    flipped,
    new_session_ticket,
    queued,
    read,
    read_exactly,
    reset,
    until,
)
from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.connection.establish import PendingConnection, accept, connect, hand_over
from tlsify.connection.setup import handshake
from tlsify.errors import (
    DeadlineExceeded,
    KeyUpdateRefused,
    KtlsUnavailable,
    PeerAlert,
    PeerMisbehaved,
    RekeyUnsupported,
    TlsifyError,
    Truncated,
)
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities
from tlsify.metrics.counters import counters
from tlsify.tls.messages import KeyUpdateRequest
from tlsify.tls.record import MAX_PLAINTEXT, encode_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.connection.handoff import Handoff
    from tlsify.keys import Keys

pytestmark = pytest.mark.each_kernel

TLS13 = ProtocolVersion.TLSv1_3
TLS12 = ProtocolVersion.TLSv1_2
IN_GUEST = "TLSIFY_GUEST" in os.environ
LARGE = 2**20 if IN_GUEST else 2**22

both = pytest.mark.parametrize("policy", OFFLOADS)
each_version = pytest.mark.parametrize("version", VERSIONS)


# -- what passes


@both
@each_version
def test_echo_in_both_directions(lab: Lab, policy: KtlsPolicy, version: ProtocolVersion) -> None:
    """Plain reads and writes on the hand-off's socket carry TLS, either side first."""
    client, server = lab.pair(policy, version)
    assert client.negotiated.version is server.negotiated.version is version
    client.sock.sendall(b"ping")
    assert read(server) == b"ping"
    server.sock.sendall(b"pong")
    assert read(client) == b"pong"
    server.sock.sendall(b"more")
    assert read(client) == b"more"


@both
def test_large_data_in_both_directions_at_once(lab: Lab, policy: KtlsPolicy) -> None:
    """Megabytes arrive unchanged while as many go the other way."""
    client, server = lab.pair(policy)
    up, down = os.urandom(LARGE), os.urandom(LARGE)
    senders = (
        Endpoint(lambda: client.sock.sendall(up)),
        Endpoint(lambda: server.sock.sendall(down)),
    )
    receiver = Endpoint(lambda: read_exactly(server, LARGE))
    assert read_exactly(client, LARGE) == down
    assert receiver.result() == up
    for sender in senders:
        sender.result()


@both
@pytest.mark.parametrize("client_ends_first", [True, False])
def test_one_direction_closed(lab: Lab, policy: KtlsPolicy, *, client_ends_first: bool) -> None:
    """After a side's shutdown the other still sends, and both ends of stream are in order."""
    client, server = lab.pair(policy)
    first, second = (client, server) if client_ends_first else (server, client)
    first.sock.sendall(b"question")
    first.shutdown()
    assert read_exactly(second, 100) == b"question"
    second.sock.sendall(b"answer")
    second.shutdown()
    assert read_exactly(first, 100) == b"answer"


@both
def test_sendfile_of_a_regular_file(lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """What os.sendfile puts into the descriptor arrives, and never as plaintext on the wire."""
    content = b"TOP SECRET LINE\n" * (LARGE // 64)
    file = tmp_path / "file"
    file.write_bytes(content)
    ours, left = lab.tcp()
    right, theirs = lab.tcp()
    middleman = Middleman(left, right)
    client_config, server_config = lab.configs()
    other = Endpoint(lambda: accept(theirs, server_config, policy))
    client = lab.keep(connect(ours, client_config, policy))
    server = lab.keep(other.result())
    server.sock.settimeout(None)

    def send() -> None:
        with file.open("rb") as source:
            offset = 0
            while offset < len(content):
                offset += os.sendfile(server.sock.fileno(), source.fileno(), offset, len(content))
        server.shutdown()

    sender = Endpoint(send)
    received = read_exactly(client, len(content) + 1)
    sender.result()
    assert hashlib.sha256(received).digest() == hashlib.sha256(content).digest()
    client.close()
    middleman.join()
    assert b"SECRET" not in middleman.from_right
    assert len(middleman.from_right) > len(content)
    assert middleman.from_left


@both
def test_records_of_the_smallest_and_the_largest_size(lab: Lab, policy: KtlsPolicy) -> None:
    """Records of 1 byte and of 2**14 bytes are taken alike."""
    server, peer = lab.server(policy)
    pieces = [b"a", os.urandom(MAX_PLAINTEXT), b"b", b"c", os.urandom(MAX_PLAINTEXT)]
    for piece in pieces:
        peer.send_data(piece)
    assert read_exactly(server, sum(map(len, pieces))) == b"".join(pieces)


@both
@each_version
def test_large_write_comes_as_whole_records(
    lab: Lab, policy: KtlsPolicy, version: ProtocolVersion
) -> None:
    """Records never exceed 2**14 bytes, and any peer can open them in order."""
    server, peer = lab.server(policy, version)
    content = os.urandom(3 * MAX_PLAINTEXT + 1)
    sender = Endpoint(lambda: server.sock.sendall(content))
    assert peer.recv_data(len(content)) == content
    sender.result()


@both
@each_version
def test_every_cipher(lab: Lab, policy: KtlsPolicy, version: ProtocolVersion) -> None:
    """Whatever cipher is negotiated, several records pass in both directions."""
    client_config, server_config = lab.configs(version)
    for aead in Aead:
        client_only = dataclasses.replace(client_config, aeads=(aead,))
        server_only = dataclasses.replace(server_config, aeads=(aead,))
        ours, theirs = lab.tcp()
        other = Endpoint(lambda s=theirs, c=server_only: accept(s, c, policy))  # type: ignore[misc]
        if version is TLS12 and aead is Aead.AES_CCM_128 and not _is_ec(server_config):
            continue
        client, server = lab.keep(connect(ours, client_only, policy)), lab.keep(other.result())
        assert client.negotiated.suite.aead is server.negotiated.suite.aead is aead
        for message in (b"one", b"two", b"three"):
            client.sock.sendall(message)
            assert read(server) == message
            server.sock.sendall(message)
            assert read(client) == message


def _is_ec(config: ServerConfig) -> bool:
    return "EllipticCurve" in type(config.key_pair.key).__name__ or hasattr(
        config.key_pair.key, "curve"
    )


# -- the boundary between handshake and data


@both
def test_finished_and_data_in_one_segment(lab: Lab, policy: KtlsPolicy) -> None:
    """Data that comes together with the client's Finished is not lost."""
    ours, theirs = lab.tcp()
    client_config, server_config = lab.configs()
    other = Endpoint(lambda: accept(theirs, server_config, policy))
    peer = RawPeer(ours, client_config, hold=True)
    ours.sendall(peer.held + peer.data(b"first ") + peer.data(b"second") + peer.seal(*CLOSE_NOTIFY))
    server = lab.keep(other.result())
    assert read_exactly(server, 100) == b"first second"


@both
def test_tls12_server_finished_and_data_in_one_segment(lab: Lab, policy: KtlsPolicy) -> None:
    """In TLS 1.2 the server's Finished comes last: data right behind it is not lost either."""
    ours, theirs = lab.tcp()
    client_config, server_config = lab.configs(TLS12)
    other = Endpoint(lambda: RawPeer(theirs, server_config, hold=True))
    waiting = Endpoint(lambda: connect(ours, client_config, policy))
    peer = other.result()
    theirs.sendall(peer.held + peer.data(b"greeting"))
    client = lab.keep(waiting.result())
    assert read(client) == b"greeting"
    client.sock.sendall(b"reply")
    assert peer.recv_data(5) == b"reply"


def _boundary(policy: KtlsPolicy) -> Iterator[int]:
    """Split points: every byte on the host; in a slow guest, those around the record headers."""
    del policy
    yield from (range(1, 120) if not IN_GUEST else (5, 6, 11, 60, 69, 70, 71, 74, 75, 76, 80, 90))


@both
def test_data_split_at_every_byte_of_the_boundary(lab: Lab, policy: KtlsPolicy) -> None:
    """Wherever the network cuts Finished and the data behind it, nothing is lost."""
    client_config, server_config = lab.configs()
    for split in _boundary(policy):
        ours, theirs = lab.tcp()
        other = Endpoint(lambda sock=theirs: hand_over(sock, server_config, policy))  # type: ignore[misc]
        peer = RawPeer(ours, client_config, hold=True)
        stream = peer.held + peer.data(b"data") + peer.seal(*CLOSE_NOTIFY)
        if split >= len(stream):
            other_is_cut = stream
            ours.sendall(other_is_cut)
            lab.keep(other.result())
            break
        ours.sendall(stream[:split])
        until(lambda task=other, sock=theirs: task.done or queued(sock) == 0)  # type: ignore[misc]
        ours.sendall(stream[split:])
        server = lab.keep(other.result())
        assert read_exactly(server, 100) == b"data", f"cut at {split}"
        server.close()


@both
def test_tickets_in_front_of_the_data(lab: Lab, policy: KtlsPolicy) -> None:
    """A client passes over NewSessionTickets, be they one to a record or two."""
    client, peer = lab.client(policy)
    for _ in range(3):
        peer.send(ContentType.handshake, new_session_ticket())
    peer.send(ContentType.handshake, new_session_ticket(b"a") + new_session_ticket(b"b"))
    peer.send_data(b"data")
    assert read(client) == b"data"
    peer.send(ContentType.handshake, new_session_ticket())
    peer.send_data(b"more")
    assert read(client) == b"more"


@both
@each_version
def test_python_ssl_server(
    lab: Lab,
    policy: KtlsPolicy,
    version: ProtocolVersion,
    authority: trustme.CA,
) -> None:
    """OpenSSL's own server, which sends two tickets first in TLS 1.3, is understood."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(context)
    context.maximum_version = ssl.TLSVersion(version)
    ours, theirs = lab.tcp()

    def serve() -> bytes:
        with context.wrap_socket(theirs, server_side=True, suppress_ragged_eofs=False) as wrapped:
            wrapped.sendall(b"hello")
            received = wrapped.recv(16)
            wrapped.unwrap().close()
            return received

    other = Endpoint(serve)
    client = lab.keep(connect(ours, lab.configs(version)[0], policy))
    assert read(client) == b"hello"
    client.sock.sendall(b"bye")
    client.shutdown()
    assert read(client) == b""
    assert other.result() == b"bye"


@both
def test_several_control_records_in_a_row(lab: Lab, policy: KtlsPolicy) -> None:
    """Tickets and a user_canceled alert between two pieces of data do not disturb them."""
    client, peer = lab.client(policy)
    peer.send_data(b"one")
    peer.send(ContentType.handshake, new_session_ticket())
    peer.send_alert(AlertDescription.user_canceled, 1)
    peer.send(ContentType.handshake, new_session_ticket())
    peer.send_data(b"two")
    assert read_exactly(client, 6) == b"onetwo"


@both
def test_hello_request(lab: Lab, policy: KtlsPolicy) -> None:
    """A TLS 1.2 server's HelloRequest is declined with a warning, and the connection goes on."""
    client, peer = lab.client(policy, TLS12)
    peer.send(ContentType.handshake, bytes(4))
    peer.send_data(b"data")
    assert read(client) == b"data"
    assert peer.recv() == (ContentType.alert, bytes([1, AlertDescription.no_renegotiation]))
    client.sock.sendall(b"still here")
    assert peer.recv_data(10) == b"still here"


# -- how it ends


@both
@each_version
def test_clean_end(lab: Lab, policy: KtlsPolicy, version: ProtocolVersion) -> None:
    """close_notify is the end of the stream, sent once, and ``service`` says so as well."""
    server, peer = lab.server(policy, version)
    peer.send_data(b"last words")
    peer.close_notify()
    assert read_exactly(server, 100) == b"last words"
    assert read(server) == b""
    server.close()
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


@both
def test_end_without_close_notify(lab: Lab, policy: KtlsPolicy) -> None:
    """A bare FIN is truncation; what came before it is still given."""
    server, peer = lab.server(policy)
    peer.send_data(b"half a mess")
    peer.sock.shutdown(socket.SHUT_WR)
    assert read(server) == b"half a mess"
    with pytest.raises(Truncated):
        read(server)


@both
def test_end_inside_a_record(lab: Lab, policy: KtlsPolicy) -> None:
    """A record cut short by FIN is truncation, and nothing of it is given."""
    server, peer = lab.server(policy)
    peer.sock.sendall(peer.data(b"whole") + peer.data(b"cut short")[:-1])
    peer.sock.shutdown(socket.SHUT_WR)
    assert read(server) == b"whole"
    with pytest.raises(Truncated):
        read(server)


@both
def test_reset_by_the_peer(lab: Lab, policy: KtlsPolicy) -> None:
    """RST is an error, never an end of the stream."""
    server, peer = lab.server(policy)
    reset(peer.sock)
    with pytest.raises(ConnectionResetError):
        read(server)


@both
@each_version
def test_error_alert_of_the_peer(lab: Lab, policy: KtlsPolicy, version: ProtocolVersion) -> None:
    """An error alert ends the connection with its name; what came before it is given."""
    server, peer = lab.server(policy, version)
    peer.send_data(b"data")
    assert read(server) == b"data"
    peer.send_alert(AlertDescription.internal_error)
    with pytest.raises(PeerAlert, match="internal_error"):
        read(server)


@both
def test_data_and_error_alert_in_one_segment(lab: Lab, policy: KtlsPolicy) -> None:
    """What the peer sent before its error alert is given, however the network joins the two."""
    server, peer = lab.server(policy)
    alert = bytes([2, AlertDescription.internal_error])
    peer.sock.sendall(peer.data(b"data") + peer.seal(ContentType.alert, alert))
    assert read(server) == b"data"
    with pytest.raises(PeerAlert, match="internal_error"):
        read(server)


def _serve_until_it_fails(server: Handoff) -> None:
    """Peek through the hand-off, until it raises."""
    while read(server) if server.channel is None else server.service():
        pass
    server.service()


@both
@each_version
def test_record_with_a_flipped_bit(lab: Lab, policy: KtlsPolicy, version: ProtocolVersion) -> None:
    """A record that does not authenticate ends the connection, and the peer is told why."""
    server, peer = lab.server(policy, version)
    peer.sock.sendall(flipped(peer.data(b"data")))
    with pytest.raises(PeerMisbehaved) as raised:
        _serve_until_it_fails(server)
    assert raised.value.alert is AlertDescription.bad_record_mac
    assert peer.recv_alert() is AlertDescription.bad_record_mac
    assert peer.recv() is None


@both
def test_record_that_is_too_long(lab: Lab, policy: KtlsPolicy) -> None:
    """A header that announces more than any record may have is answered with record_overflow."""
    server, peer = lab.server(policy)
    peer.sock.sendall(b"\x17\x03\x03\x48\x01")
    with pytest.raises(PeerMisbehaved) as raised:
        _serve_until_it_fails(server)
    assert raised.value.alert is AlertDescription.record_overflow
    assert peer.recv_alert() is AlertDescription.record_overflow


@both
@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\x15\x03\x03\x00\x02\x02\x28", id="plain alert"),
        pytest.param(b"\x17\x03\x03\x00\x10" + bytes(16), id="plain data"),
        pytest.param(b"\x14\x03\x03\x00\x01\x01", id="change_cipher_spec"),
    ],
)
def test_plaintext_after_the_keys(lab: Lab, policy: KtlsPolicy, stranger: bytes) -> None:
    """Nothing unprotected is taken for data once the handshake is over; the peer gets an alert."""
    server, peer = lab.server(policy)
    peer.sock.sendall(stranger)
    with pytest.raises(PeerMisbehaved) as raised:
        _serve_until_it_fails(server)
    assert raised.value.alert is not None
    assert peer.recv_alert() is raised.value.alert


@both
@pytest.mark.parametrize(
    ("content_type", "payload"),
    [
        pytest.param(ContentType.handshake, b"\x0b\0\0\0", id="certificate"),
        pytest.param(ContentType.handshake, new_session_ticket(), id="ticket to a server"),
        pytest.param(ContentType.alert, b"\1", id="half an alert"),
    ],
)
def test_unexpected_message(
    lab: Lab, policy: KtlsPolicy, content_type: ContentType, payload: bytes
) -> None:
    """A protected message that has no place after the handshake ends the connection."""
    server, peer = lab.server(policy)
    peer.send(content_type, payload)
    with pytest.raises(PeerMisbehaved) as raised:
        _serve_until_it_fails(server)
    assert peer.recv_alert() is raised.value.alert


# -- keys change


def without_rekey() -> bool:
    """Return whether this kernel has kTLS, but no second key."""
    return not capabilities().rekey


@pytest.mark.ktls
@pytest.mark.parametrize("request_update", KeyUpdateRequest)
@pytest.mark.parametrize("behind", [b"", b"data"], ids=["alone", "behind data"])
def test_key_update_received(
    lab: Lab, request_update: KeyUpdateRequest, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the kernel can change its key it does; elsewhere it ends with a clear error."""
    capabilities()  # its own trials move the counters
    before, events = tls_stat(), counters()
    server, peer = lab.server(KERNEL)
    server.sock.settimeout(None)  # Python polls first, and poll hides a KeyUpdate
    data = peer.data(behind) if behind else b""
    peer.sock.sendall(data + peer.key_update(request_update))
    peer.send_data(b"later")
    assert not behind or read_exactly(server, len(behind)) == behind
    if without_rekey():
        with pytest.raises(KeyUpdateRefused, match="KeyUpdate"):
            read(server)
        assert peer.recv_alert() is AlertDescription.internal_error
        assert peer.recv() is None
        assert counters()["key_update_refused"] == events["key_update_refused"] + 1
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        return
    assert read_exactly(server, 5) == b"later"
    requested = request_update is KeyUpdateRequest.update_requested
    if requested:
        assert peer.recv() == (ContentType.handshake, b"\x18\0\0\1\0")
        peer.follow_key_update()
    server.sock.sendall(b"answer")
    assert peer.recv_data(6) == b"answer"
    after = tls_stat()
    assert after["TlsRxRekeyReceived"] == before["TlsRxRekeyReceived"] + 1
    assert after["TlsRxRekeyOk"] == before["TlsRxRekeyOk"] + 1
    assert after["TlsTxRekeyOk"] == before["TlsTxRekeyOk"] + requested
    assert after["TlsDecryptError"] == before["TlsDecryptError"]
    assert counters()["key_update_received"] == events["key_update_received"] + 1


@pytest.mark.ktls
@pytest.mark.parametrize("wanted", [True, False])
def test_key_update_sent(lab: Lab, *, wanted: bool) -> None:
    """We change our key where we can, and say so where we cannot: nothing is sent then."""
    capabilities()
    before = tls_stat()
    server, peer = lab.server(KERNEL)
    if without_rekey():
        with pytest.raises(RekeyUnsupported, match="cannot rekey"):
            server.key_update(request=wanted)
        server.sock.sendall(b"still there")
        assert peer.recv_data(11) == b"still there"
        return
    for number in range(3):
        server.key_update(request=wanted)
        assert peer.recv() == (ContentType.handshake, b"\x18\0\0\1" + bytes([wanted]))
        peer.follow_key_update()
        server.sock.sendall(b"data%d" % number)
        assert peer.recv_data(5) == b"data%d" % number
    assert tls_stat()["TlsTxRekeyOk"] == before["TlsTxRekeyOk"] + 3


@pytest.mark.parametrize(
    ("policy", "version", "reason"),
    [
        pytest.param(RELAY, TLS13, "OpenSSL has the keys", id="relay"),
        pytest.param(KERNEL, TLS12, "TLS 1.2 has no KeyUpdate", id="1.2", marks=pytest.mark.ktls),
    ],
)
def test_key_update_that_cannot_be_sent(
    lab: Lab, policy: KtlsPolicy, version: ProtocolVersion, reason: str
) -> None:
    """It is refused with a reason, and the connection is as it was."""
    server, peer = lab.server(policy, version)
    with pytest.raises(RekeyUnsupported, match=reason):
        server.key_update()
    server.sock.sendall(b"data")
    assert peer.recv_data(4) == b"data"


@pytest.mark.parametrize("request_update", KeyUpdateRequest)
def test_key_update_on_the_relay_path(lab: Lab, request_update: KeyUpdateRequest) -> None:
    """The relay follows a KeyUpdate, and answers it if the peer asks for that."""
    server, peer = lab.server(RELAY)
    peer.sock.sendall(peer.data(b"old ") + peer.key_update(request_update) + peer.data(b"new"))
    assert read_exactly(server, 7) == b"old new"
    server.sock.sendall(b"answer")
    if request_update is KeyUpdateRequest.update_requested:
        assert peer.recv() == (ContentType.handshake, b"\x18\0\0\1\0")
        peer.follow_key_update()
    assert peer.recv_data(6) == b"answer"


# -- the handshake fails


@both
def test_garbage_instead_of_a_hello(lab: Lab, policy: KtlsPolicy) -> None:
    """The socket is closed, the error says what came, and the stranger gets a plain alert."""
    before = descriptors()
    ours, theirs = lab.tcp()
    ours.sendall(b"GET / HTTP/1.0\r\n\r\n")
    other = Endpoint(lambda: accept(theirs, lab.configs()[1], policy))
    assert ours.recv(100) == encode_record(
        ContentType.alert, bytes([2, AlertDescription.unexpected_message])
    )
    ours.close()
    with pytest.raises(PeerMisbehaved, match="plain text"):
        other.result()
    assert theirs.fileno() == -1
    check_descriptors(before)


@both
def test_peer_that_closes_at_once(lab: Lab, policy: KtlsPolicy) -> None:
    """An end of stream before the hello is truncation."""
    ours, theirs = lab.tcp()
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises((Truncated, KtlsUnavailable)):
        accept(theirs, lab.configs()[1], policy)
    assert theirs.fileno() == -1


@both
def test_silent_peer(lab: Lab, policy: KtlsPolicy) -> None:
    """The handshake has a deadline, which holds for all of it."""
    _ours, theirs = lab.tcp()
    config = dataclasses.replace(lab.configs()[1], timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        accept(theirs, config, policy)
    assert theirs.fileno() == -1


def test_timeout_of_the_socket_is_kept(lab: Lab) -> None:
    """The hand-over leaves TCP_NODELAY as it found it."""
    ours, theirs = lab.tcp()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    client, server = lab.configs()
    seen: list[int] = []
    opening = PendingConnection(ours, client, RELAY)
    other = Endpoint(lambda: accept(theirs, server, RELAY))
    handshake.run(ours, opening.engine, 10)
    seen.append(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    lab.keep(opening.commit())
    lab.keep(other.result())
    assert seen == [0]


def test_commit_before_the_handshake(lab: Lab) -> None:
    """It is the caller's bug, and said so."""
    ours, _theirs = lab.tcp()
    with pytest.raises(TlsifyError, match="before the end"):
        PendingConnection(ours, lab.configs()[0], RELAY).commit()


@both
def test_block_closes_the_connection(lab: Lab, policy: KtlsPolicy) -> None:
    """``with`` ends both directions with one close_notify."""
    server, peer = lab.server(policy)
    with server:
        server.sock.sendall(b"x")
    assert peer.recv_data(1) == b"x"
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None
    assert server.sock.fileno() == -1


@both
def test_abort(lab: Lab, policy: KtlsPolicy) -> None:
    """What was sent arrives, and no close_notify behind it."""
    handoff, peer = lab.server(policy)
    handoff.sock.sendall(b"the first part")
    handoff.abort()
    assert peer.recv() == (ContentType.application_data, b"the first part")
    assert peer.recv() is None
    assert handoff.sock.fileno() == -1


@both
def test_secrets_are_wiped(lab: Lab, policy: KtlsPolicy) -> None:
    """After the commit no key or traffic secret is left; for a relay none was derived."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: accept(theirs, server, policy))
    pending = PendingConnection(ours, client, policy)
    handshake.run(ours, pending.engine, 60)
    keys = pending.engine.keys
    assert (keys is None) is (policy is RELAY)
    assert keys is None or all(map(any, _secrets(keys)))
    lab.keep(pending.commit())
    lab.keep(other.result())
    assert keys is None or not any(map(any, _secrets(keys)))


def _secrets(keys: Keys) -> list[bytearray]:
    return [keys.tx.key, keys.tx.iv, keys.rx.key, keys.rx.iv, keys.tx_secret, keys.rx_secret]
