"""Tests of handoff: one suite for both offloads, and the decision between them."""

from __future__ import annotations

import dataclasses
import errno
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
    FailingSocket,
    FakeUlpSocket,
    Lab,
    Middleman,
    RawPeer,
    new_session_ticket,
    queued,
    read,
    read_exactly,
    reset,
    until,
)
from tlsify import handoff as handoff_module
from tlsify import handshake
from tlsify.codepoints import Aead, AlertDescription, ContentType, ProtocolVersion
from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
from tlsify.errors import (
    ConfigError,
    DeadlineExceeded,
    HandshakeError,
    KtlsCommitError,
    KtlsError,
    KtlsUnavailable,
    PeerAlert,
    PeerMisbehaved,
    RekeyUnsupported,
    TlsifyError,
    Truncated,
)
from tlsify.handoff import Offload, Opening, accept, connect, host_refusal
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.floor import ADVISORIES
from tlsify.ktls.probe import Capabilities, capabilities
from tlsify.tls.messages import KeyUpdateRequest
from tlsify.tls.record import MAX_PLAINTEXT, encode_record, split_records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tlsify.config import KeyPair, TrustAnchors
    from tlsify.handoff import Handoff

TLS13 = ProtocolVersion.TLSv1_3
TLS12 = ProtocolVersion.TLSv1_2
AUTO = KtlsPolicy()
IN_GUEST = "TLSIFY_GUEST" in os.environ
LARGE = 2**20 if IN_GUEST else 2**22

both = pytest.mark.parametrize("policy", OFFLOADS)
each_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def lab(trust: TrustAnchors, key_pair: KeyPair) -> Iterator[Lab]:
    """Connections that are taken down at the end."""
    with Lab(trust, key_pair) as made:
        yield made


def descriptors() -> set[str]:
    """List this process's open descriptors by what they are."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib opens another one
        try:
            found.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")  # noqa: PTH115
        except FileNotFoundError:
            continue
    return found


def check_descriptors(before: set[str]) -> None:
    """Assert that nothing has been left open, once relays have ended."""
    until(lambda: descriptors() <= before)


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
        other = Endpoint(lambda sock=theirs: accept(sock, server_config, policy))  # type: ignore[misc]
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
    """Have the hand-off look at what is next, until it raises."""
    while read(server) if server.session is None else server.service():
        pass
    server.service()


def _flip(record: bytes) -> bytes:
    return record[:-1] + bytes([record[-1] ^ 1])


@both
@each_version
def test_record_with_a_flipped_bit(lab: Lab, policy: KtlsPolicy, version: ProtocolVersion) -> None:
    """A record that does not authenticate ends the connection, and the peer is told why."""
    server, peer = lab.server(policy, version)
    peer.sock.sendall(_flip(peer.data(b"data")))
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


@pytest.mark.ktls
@pytest.mark.parametrize("request_update", KeyUpdateRequest)
def test_key_update_on_the_kernel_path(lab: Lab, request_update: KeyUpdateRequest) -> None:
    """A KeyUpdate ends the connection with a clear error, and with an alert to the peer."""
    server, peer = lab.server(KERNEL)
    peer.sock.sendall(peer.data(b"data") + peer.key_update(request_update) + peer.data(b"later"))
    # With a timeout Python polls first, and where the kernel can rekey poll hides a KeyUpdate.
    server.sock.settimeout(None)
    assert read(server) == b"data"
    with pytest.raises(HandshakeError, match="KeyUpdate"):
        read(server)
    assert peer.recv_alert() is AlertDescription.internal_error
    assert peer.recv() is None


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
    opening = Opening(ours, client, RELAY)
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
        Opening(ours, lab.configs()[0], RELAY).commit()


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
def test_secrets_are_wiped(lab: Lab, policy: KtlsPolicy) -> None:
    """After the commit no key or traffic secret is left in what the caller holds."""
    for handoff in lab.pair(policy):
        negotiated = handoff.negotiated
        for secret in (
            negotiated.tx.key,
            negotiated.tx.iv,
            negotiated.rx.key,
            negotiated.tx_secret,
            negotiated.rx_secret,
        ):
            assert not any(secret)


# -- the decision


ABLE = Capabilities(
    refusal=None,
    supported=frozenset((v, a, d) for v in ProtocolVersion for a in Aead for d in Direction),
    rekey=False,
    payload_limit=False,
    advisories=(),
)
without_ktls = pytest.mark.skipif(
    capabilities().refusal is None, reason="this kernel has what the test wants to be missing"
)


@without_ktls
def test_kernel_required_where_there_is_none(lab: Lab) -> None:
    """--ktls=require refuses before a byte is sent, and closes the socket."""
    ours, theirs = lab.tcp()
    with pytest.raises(KtlsUnavailable) as raised:
        connect(ours, lab.configs()[0], KERNEL)
    assert raised.value.code == "no-tls-ulp"
    assert ours.fileno() == -1
    assert theirs.recv(1) == b""


@without_ktls
def test_relay_says_why(lab: Lab) -> None:
    """A fallback carries the kernel's reason with it."""
    client, server = lab.pair(AUTO)
    assert client.offload is server.offload is Offload.RELAY
    assert client.reason is not None
    assert client.reason.code == "no-tls-ulp"


def test_kernel_switched_off(lab: Lab) -> None:
    """The policy is a reason like any other, and the hand-off stays usable."""
    client, _server = lab.pair(RELAY)
    assert client.reason is not None
    assert client.reason.code == "policy-off"
    assert client.session is None
    assert not client.peer_closed


@pytest.mark.ktls
def test_kernel_as_a_matter_of_course(lab: Lab) -> None:
    """Without any policy the kernel takes what it can."""
    client, server = lab.pair(AUTO)
    assert client.offload is server.offload is Offload.KERNEL
    assert client.reason is None


def test_known_bad_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with a known bug is not used, unless the caller insists."""
    monkeypatch.setattr(
        handoff_module,
        "capabilities",
        lambda: dataclasses.replace(ABLE, advisories=ADVISORIES[:1]),
    )
    refusal = host_refusal(AUTO)
    assert refusal is not None
    assert refusal.code == "known-bad-kernel"
    assert "CVE-2025-39682" in str(refusal)
    assert host_refusal(KtlsPolicy(any_kernel=True)) is None


def _half(*missing: Aead) -> Capabilities:
    kept = frozenset(entry for entry in ABLE.supported if entry[1] not in missing)
    return dataclasses.replace(ABLE, supported=kept)


def test_only_offloadable_suites_are_offered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kTLS required the hello names nothing else; otherwise the rest comes last."""
    monkeypatch.setattr(handoff_module, "capabilities", lambda: _half(Aead.AES_GCM_128))
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    ours, _theirs = lab.tcp()
    config = lab.configs()[0]
    rest = (Aead.AES_GCM_256, Aead.CHACHA20_POLY1305)
    assert Opening(ours, config, KERNEL)._aeads(config.aeads) == rest
    assert Opening(ours, config, AUTO)._aeads(config.aeads) == (*rest, Aead.AES_GCM_128)
    assert Opening(ours, config, RELAY)._aeads(config.aeads) == config.aeads


def _fake_server(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    policy: KtlsPolicy,
    found: Capabilities = ABLE,
    fault: tuple[int, OSError] | None = None,
) -> tuple[Endpoint[Handoff], FakeUlpSocket, RawPeer]:
    """Accept where the kernel seems to have kTLS; no record can be sent under its keys."""
    monkeypatch.setattr(handoff_module, "capabilities", lambda: found)
    ours, theirs = lab.tcp()
    fake = FakeUlpSocket(theirs, *(fault or (-1, OSError())))
    fake.settimeout(20)
    client, server = lab.configs()
    other = Endpoint(lambda: accept(fake, server, policy))
    return other, fake, RawPeer(ours, client)


def test_suite_that_the_kernel_lacks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose suite cannot be offloaded is relayed, under the reason's name."""
    other, _, peer = _fake_server(lab, monkeypatch, AUTO, _half(*Aead))
    server = lab.keep(other.result())
    assert server.reason is not None
    assert server.reason.code == "suite-unsupported"
    peer.send_data(b"data")
    assert read(server) == b"data"


def test_rekey_required_where_there_is_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """--ktls-rekey=require keeps TLS 1.3 in userspace: no session follows a KeyUpdate yet."""
    policy = KtlsPolicy(rekey_required=True)
    other, _, _peer = _fake_server(lab, monkeypatch, policy)
    server = lab.keep(other.result())
    assert server.reason is not None
    assert server.reason.code == "no-rekey"


def test_refusal_after_the_handshake_tells_the_peer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kTLS required, a refused key ends the connection with close_notify."""
    policy = KtlsPolicy(KtlsMode.REQUIRE, rekey_required=True)
    other, fake, peer = _fake_server(lab, monkeypatch, policy)
    with pytest.raises(KtlsUnavailable):
        other.result()
    assert fake.fileno() == -1
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


# The privileged calls of a server's commit, in order.
STEPS = ("TCP_ULP", "NODELAY on", "NODELAY off", "SO_RCVLOWAT", "TLS_RX", "TLS_TX")
ERRNOS = (
    errno.ENOENT,
    errno.ENOTCONN,
    errno.EEXIST,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EBUSY,
    errno.ENOMEM,
    errno.EPERM,
    errno.EBADF,
)


def _expected(step: str, number: int) -> type[Exception] | None:
    """Tell which error a failing step raises under AUTO; None if it leads to a connection."""
    if step == "SO_RCVLOWAT":
        return OSError
    if step == "TLS_RX" and number == errno.EBUSY:
        return RekeyUnsupported
    return KtlsCommitError if step == "TLS_TX" else None


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_failing_system_call_during_the_commit(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    """Whichever call fails, the outcome is a relay or a closed socket, never half a connection."""
    before = descriptors()
    fail_at = STEPS.index(step)
    error = OSError(number, os.strerror(number))
    other, fake, peer = _fake_server(lab, monkeypatch, AUTO, fault=(fail_at, error))
    expected = _expected(step, number)
    if expected is not None:
        with pytest.raises(expected):
            other.result()
        assert fake.fileno() == -1
        if issubclass(expected, KtlsError):
            assert peer.recv() == CLOSE_NOTIFY
        assert peer.recv() is None
    else:
        server = lab.keep(other.result())
        relayed = step in {"TCP_ULP", "TLS_RX"}
        assert server.offload is (Offload.RELAY if relayed else Offload.KERNEL)
        if server.offload is Offload.RELAY:
            peer.send_data(b"ping")
            assert read(server) == b"ping"
            server.sock.sendall(b"pong")
            assert peer.recv_data(4) == b"pong"
        server.sock.close()
    peer.sock.close()
    check_descriptors(before)


@pytest.mark.ktls
@pytest.mark.parametrize("fail_at", range(len(STEPS) + 1))
def test_failing_system_call_on_a_kernel_with_ktls(lab: Lab, fail_at: int) -> None:
    """The same with a real ULP: a relay over a keyless ULP works, a half-keyed one is closed."""
    before = descriptors()
    ours, theirs = lab.tcp()
    failing = FailingSocket(theirs, fail_at, OSError(errno.EINVAL, "planted"))
    failing.settimeout(20)
    client, server_config = lab.configs()
    other = Endpoint(lambda: accept(failing, server_config, AUTO))
    step = STEPS[fail_at] if fail_at < len(STEPS) else None
    if step == "SO_RCVLOWAT":
        RawPeer(ours, client)
        with pytest.raises(OSError, match="planted"):
            other.result()
    elif step == "TLS_TX":
        peer = RawPeer(ours, client)
        with pytest.raises(KtlsCommitError):
            other.result()
        assert peer.recv() == CLOSE_NOTIFY
    else:
        peer = RawPeer(ours, client)
        server = lab.keep(other.result())
        relayed = step in {"TCP_ULP", "TLS_RX"}
        assert server.offload is (Offload.RELAY if relayed else Offload.KERNEL)
        peer.send_data(b"ping")
        assert read(server) == b"ping"
        server.sock.sendall(b"pong")
        assert peer.recv_data(4) == b"pong"
        server.sock.close()
    ours.close()
    check_descriptors(before)


@pytest.mark.ktls
def test_socket_that_has_a_ulp_already(lab: Lab) -> None:
    """Somebody else's keys may be on it, so it is refused and closed."""
    ours, _theirs = lab.tcp()
    ulp.attach(ours)
    with pytest.raises(ConfigError, match="EEXIST"):
        connect(ours, lab.configs()[0], AUTO)
    assert ours.fileno() == -1


@pytest.mark.ktls
def test_client_that_wants_short_records(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """max_fragment_length is kept by a kernel that can, and by the relay otherwise."""
    ours, theirs = lab.tcp()
    client, server_config = lab.configs()
    original = Opening._install_rx

    def install_rx(self: Opening, negotiated: object) -> None:
        limited = dataclasses.replace(negotiated, max_fragment_length=512)  # type: ignore[type-var]
        original(self, limited)  # type: ignore[arg-type]

    monkeypatch.setattr(Opening, "_install_rx", install_rx)
    other = Endpoint(lambda: accept(theirs, server_config, AUTO))
    peer = RawPeer(ours, client)
    server = lab.keep(other.result())
    if not capabilities().payload_limit:
        assert server.reason is not None
        assert server.reason.code == "max-fragment-length"
        return
    assert server.offload is Offload.KERNEL
    server.sock.sendall(bytes(2000))
    sizes: list[int] = []
    while sum(sizes) < 2000:
        record = peer.recv()
        assert record is not None
        sizes.append(len(record[1]))
    assert max(sizes) <= 512


def test_framing_of_what_the_middleman_sees(lab: Lab) -> None:
    """Even the relay's last byte is a whole record, so nothing unprotected can hide behind it."""
    ours, left = lab.tcp()
    right, theirs = lab.tcp()
    middleman = Middleman(left, right)
    client_config, server_config = lab.configs()
    other = Endpoint(lambda: accept(theirs, server_config, RELAY))
    client = lab.keep(connect(ours, client_config, RELAY))
    server = lab.keep(other.result())
    server.sock.sendall(b"data")
    assert read(client) == b"data"
    server.close()
    client.close()
    middleman.join()
    for seen in (middleman.from_left, middleman.from_right):
        assert b"".join(split_records(bytes(seen))) == bytes(seen)
