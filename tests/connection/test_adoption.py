"""Tests of detach and adopt: a connection goes on in another process."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.doubles import CLOSE_NOTIFY, KERNEL, RELAY, Lab, RawPeer, flipped, new_session_ticket
from tlsify.codepoints import AlertDescription, ContentType, ProtocolVersion
from tlsify.connection.adoption import adopt
from tlsify.connection.stream import TLSSocket
from tlsify.errors import ConfigError, PeerMisbehaved
from tlsify.ktls.probe import capabilities
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.connection.handoff import Handoff

pytestmark = pytest.mark.each_kernel

ROOT = Path(__file__).resolve().parents[2]
HANDSHAKE = ContentType.handshake
TLS12 = ProtocolVersion.TLSv1_2
NOT_REQUESTED, REQUESTED = KeyUpdateRequest
KEY_UPDATE = encode_key_update(NOT_REQUESTED)
LENGTH = struct.Struct("!I")
# Answers every piece of data with itself in capitals, and tells how each connection ended.
PROGRAM = """
    import json, socket, sys
    from tlsify.errors import TlsifyError
    from tlsify.connection.adoption import adopt
    from tlsify.connection.stream import TLSSocket

    def serve(stream):
        while data := stream.recv(100):
            if data == b"update":
                stream.handoff.key_update(request=True)
            stream.sendall(data.upper())
        stream.sendall(b"BYE")

    with socket.socket(fileno=int(sys.argv[1])) as parent:
        while True:
            head, (fd,), _, _ = socket.recv_fds(parent, 4, 1)
            state = bytearray()
            while len(state) < int.from_bytes(head, "big"):
                state += parent.recv(4096)
            end = "closed"
            handoff = adopt(socket.socket(fileno=fd), state)
            with TLSSocket(handoff) as stream:
                try:
                    serve(stream)
                except (TlsifyError, OSError) as exc:
                    end = type(exc).__name__
            parent.sendall(json.dumps([end, handoff.negotiated.suite.name]).encode() + b"\\n")
"""


class Elsewhere:
    """The other process."""

    def __init__(self) -> None:
        """Start it."""
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(60)
        with theirs:
            words = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(theirs.fileno())]
            self._process = subprocess.Popen(words, cwd=ROOT, pass_fds=[theirs.fileno()])
        self._answers = self._ours.makefile("rb")

    def __enter__(self) -> Self:
        """End it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._ours.close()

    def send(self, handoff: Handoff) -> None:
        """Move a connection there, and let go of it here."""
        fd, state = handoff.detach()
        with socket.socket(fileno=fd):
            socket.send_fds(self._ours, [LENGTH.pack(len(state))], [fd])
        self._ours.sendall(state)
        state[:] = bytes(len(state))

    def result(self) -> Any:
        """Return how the connection ended there."""
        return json.loads(self._answers.readline())


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """One process for all connections."""
    with Elsewhere() as process:
        yield process


def _check_echo(peer: RawPeer, text: bytes) -> None:
    peer.send_data(text)
    assert peer.recv_data(len(text)) == text.upper()


def _check_end(peer: RawPeer, elsewhere: Elsewhere) -> None:
    peer.close_notify()
    assert peer.recv_data(3) == b"BYE"
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None
    assert elsewhere.result() == ["closed", peer.negotiated.suite.name]


@pytest.mark.ktls
@pytest.mark.parametrize("version", ProtocolVersion)
@pytest.mark.parametrize("is_client", [True, False])
def test_data_goes_on(
    lab: Lab, elsewhere: Elsewhere, version: ProtocolVersion, *, is_client: bool
) -> None:
    """What was received here, and there, adds up; so does what is sent."""
    handoff, peer = (lab.client if is_client else lab.server)(KERNEL, version)
    peer.send_data(b"here")
    tls = TLSSocket(handoff)
    tls.settimeout(5)  # which has to be none of the other process's business
    assert tls.recv(9) == b"here"
    tls.sendall(b"HERE")
    assert peer.recv_data(4) == b"HERE"
    elsewhere.send(handoff)
    _check_echo(peer, b"there")
    _check_echo(peer, b"and there")
    _check_end(peer, elsewhere)


@pytest.mark.ktls
def test_secrets_stay_nowhere(lab: Lab) -> None:
    """In the first process they are wiped, and no descriptor is left."""
    handoff, _peer = lab.server(KERNEL)
    assert handoff.channel is not None
    session = handoff.channel.session
    secrets = bytes(session.tx_secret), bytes(session.rx_secret)
    fd, state = handoff.detach()
    with socket.socket(fileno=fd):
        assert handoff.sock.fileno() == -1
        assert not any(session.tx_secret)
        assert not any(session.rx_secret)
        assert not session.can_rekey
        for secret in secrets:
            assert bool(secret) == capabilities().rekey
            assert secret in state


@pytest.mark.ktls
def test_key_updates_go_on(lab: Lab, elsewhere: Elsewhere) -> None:
    """Each direction's generation goes on from the one that it had here."""
    handoff, peer = lab.server(KERNEL)
    if not capabilities().rekey:
        elsewhere.send(handoff)
        peer.sock.sendall(peer.key_update(NOT_REQUESTED))
        assert peer.recv_alert() is AlertDescription.internal_error
        assert elsewhere.result()[0] == "KeyUpdateRefused"
        return
    tls = TLSSocket(handoff)
    peer.sock.sendall(peer.key_update(NOT_REQUESTED) + peer.data(b"here"))
    assert tls.recv(9) == b"here"
    handoff.key_update()
    assert peer.recv() == (HANDSHAKE, KEY_UPDATE)
    peer.follow_key_update()
    elsewhere.send(handoff)
    _check_echo(peer, b"there")
    peer.sock.sendall(peer.key_update(REQUESTED))
    assert peer.recv() == (HANDSHAKE, KEY_UPDATE)
    peer.follow_key_update()
    _check_echo(peer, b"and there")
    peer.send_data(b"update")
    assert peer.recv() == (HANDSHAKE, encode_key_update(REQUESTED))
    peer.follow_key_update()
    assert peer.recv_data(6) == b"UPDATE"
    peer.sock.sendall(peer.key_update(NOT_REQUESTED))
    _check_end(peer, elsewhere)


@pytest.mark.ktls
@pytest.mark.rekey
def test_answer_that_is_still_due(lab: Lab, elsewhere: Elsewhere) -> None:
    """A KeyUpdate that was asked for here goes out there, before any data."""
    handoff, peer = lab.server(KERNEL)
    assert handoff.channel is not None
    handoff.sock.settimeout(None)  # Python polls first, and poll hides a KeyUpdate
    with handoff.channel.writing:  # somebody was sending
        peer.sock.sendall(peer.key_update(REQUESTED))
        assert handoff.service()
    assert handoff.channel.session.update_due
    elsewhere.send(handoff)
    peer.send_data(b"data")
    assert peer.recv() == (HANDSHAKE, KEY_UPDATE)
    peer.follow_key_update()
    assert peer.recv_data(4) == b"DATA"
    _check_end(peer, elsewhere)


@pytest.mark.ktls
def test_message_cut_by_the_move(lab: Lab, elsewhere: Elsewhere) -> None:
    """One half of a ticket comes here, the other there."""
    handoff, peer = lab.client(KERNEL)
    ticket = new_session_ticket()
    peer.send(HANDSHAKE, ticket[:7])
    assert handoff.service()
    elsewhere.send(handoff)
    peer.send(HANDSHAKE, ticket[7:])
    _check_echo(peer, b"data")
    peer.send(HANDSHAKE, ticket)
    _check_echo(peer, b"more")
    _check_end(peer, elsewhere)


@pytest.mark.ktls
@pytest.mark.parametrize("version", ProtocolVersion)
def test_cut_stream(lab: Lab, elsewhere: Elsewhere, version: ProtocolVersion) -> None:
    """The other process tells truncation from an end as well."""
    handoff, peer = lab.server(KERNEL, version)
    elsewhere.send(handoff)
    _check_echo(peer, b"data")
    peer.sock.shutdown(socket.SHUT_WR)
    assert elsewhere.result()[0] == "Truncated"


@pytest.mark.ktls
def test_bad_record_there(lab: Lab, elsewhere: Elsewhere) -> None:
    """And sends the alert that is due."""
    handoff, peer = lab.server(KERNEL)
    elsewhere.send(handoff)
    peer.sock.sendall(flipped(peer.data(b"data")))
    assert peer.recv_alert() is AlertDescription.bad_record_mac
    assert elsewhere.result()[0] == "PeerMisbehaved"


@pytest.mark.ktls
def test_timeouts_stay_behind(lab: Lab) -> None:
    """What a TLSSocket has set on the descriptor does not move with it."""
    handoff, peer = lab.server(KERNEL)
    TLSSocket(handoff).settimeout(0.05)
    handoff.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 9)
    fd, state = handoff.detach()
    adopted = lab.keep(adopt(socket.socket(fileno=fd), state))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        assert not any(adopted.sock.getsockopt(socket.SOL_SOCKET, option, 16))
    assert adopted.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    peer.send_data(b"data")
    assert adopted.sock.recv(9) == b"data"


@pytest.mark.ktls
def test_half_closed(lab: Lab) -> None:
    """Either end of stream is remembered."""
    handoff, peer = lab.server(KERNEL)
    peer.close_notify()
    assert not handoff.service()
    handoff.shutdown()
    assert peer.recv() == CLOSE_NOTIFY
    fd, state = handoff.detach()
    adopted = lab.keep(adopt(socket.socket(fileno=fd), state))
    assert adopted.peer_closed
    tls = TLSSocket(adopted)
    assert tls.recv(9) == b""
    with pytest.raises(BrokenPipeError):
        tls.send(b"x")
    tls.close()
    assert peer.recv() is None


# -- what cannot move


def test_relayed(lab: Lab) -> None:
    """A relayed connection is this process's to carry, and goes on as it was."""
    handoff, peer = lab.server(RELAY)
    with pytest.raises(ConfigError, match="relayed"):
        handoff.detach()
    handoff.sock.sendall(b"data")
    assert peer.recv_data(4) == b"data"


@pytest.mark.ktls
def test_failed(lab: Lab) -> None:
    """What has failed has no state."""
    handoff, peer = lab.server(KERNEL)
    peer.send(HANDSHAKE, b"\x0b\0\0\0")
    with pytest.raises(PeerMisbehaved):
        handoff.service()
    with pytest.raises(ConfigError, match="failed already"):
        handoff.detach()


@pytest.mark.ktls
def test_state_of_another_connection(lab: Lab) -> None:
    """A descriptor without keys, or with others, is refused."""
    fd, state = lab.server(KERNEL)[0].detach()
    plain, _ = lab.tcp()
    other = lab.server(KERNEL, TLS12)[0]
    with socket.socket(fileno=fd):
        for sock in (plain, other.sock):
            with pytest.raises(ConfigError, match="not keyed"):
                adopt(sock, state)
