"""Tests of the sending side by itself; test_rekey has what it does about keys on a real kernel."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import CLOSE_NOTIFY, ScriptedSocket
from tests.want import Want
from tlsify.codepoints import AlertDescription, CipherSuite, ContentType, ProtocolVersion
from tlsify.connection.ending import linger
from tlsify.connection.sender import Sender
from tlsify.errors import KtlsError, RekeyUnsupported
from tlsify.metrics.counters import counters
from tlsify.tls.messages import encode_alert
from tlsify.tls.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = BlockingIOError(errno.EAGAIN, "full")
GONE = BrokenPipeError(errno.EPIPE, "gone")


def sender(sock: socket.socket, *, can_rekey: bool = False, version: int = 0x0304) -> Sender:
    """Make one for a socket that has just been keyed."""
    suite = next(s for s in CipherSuite if s.version == version)
    secret = bytes(32)
    return Sender(
        sock,
        Session(
            suite,
            is_client=True,
            can_rekey=can_rekey,
            tx_secret=bytearray(secret),
            rx_secret=bytearray(secret),
        ),
    )


@pytest.mark.parametrize("error", [FULL, GONE])
def test_nobody_waits_for_an_alert(scripted: Callable[..., ScriptedSocket], error: OSError) -> None:
    """One that does not fit, or finds nobody, is dropped: nothing ever hangs on it."""
    sock = scripted()
    sock.send_error = error
    side = sender(sock)
    side.send_if_possible(ContentType.alert, encode_alert(AlertDescription.user_canceled))
    side.abort(AlertDescription.decode_error)
    assert not sock.sent
    assert sock.shut == [socket.SHUT_WR]


def test_abort(scripted: Callable[..., ScriptedSocket]) -> None:
    """An alert and FIN; what follows is no close_notify, which would say all was well."""
    sock = scripted()
    side = sender(sock)
    side.abort(AlertDescription.decode_error)
    assert side.close_notify()
    assert sock.sent == [(ContentType.alert, bytes([2, AlertDescription.decode_error]))]
    assert sock.shut == [socket.SHUT_WR]


def test_close_notify_is_sent_once(scripted: Callable[..., ScriptedSocket]) -> None:
    """It is tried again until it fits, and never after that."""
    sock = scripted()
    side = sender(sock)
    sock.send_error = FULL
    assert not side.close_notify()
    sock.send_error = None
    assert side.close_notify()
    assert side.close_notify()
    assert sock.sent == [CLOSE_NOTIFY]


def test_close_notify_for_nobody(scripted: Callable[..., ScriptedSocket]) -> None:
    """A broken connection has heard the last of us."""
    sock = scripted()
    sock.send_error = GONE
    assert sender(sock).close_notify()


class _Busy:
    """Somebody else's right to send, until it is waited for."""

    def __init__(self, give_way: Callable[[], object] | None) -> None:
        """Store what the other does before it lets go; None if it never does."""
        self._give_way = give_way
        self.waited = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Return way to who waits."""
        if not blocking or self._give_way is None:
            return False
        assert timeout > 0
        self._give_way()
        self.waited = True
        return True

    def release(self) -> None:
        """Nobody else is waiting."""


def test_close_notify_in_the_midst_of_a_key_update(
    scripted: Callable[..., ScriptedSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the key that follows, or the peer could not open it."""
    sock = scripted()
    side = sender(sock)
    busy = _Busy(lambda: sock.sent.append((ContentType.handshake, b"")))
    monkeypatch.setattr(side, "writing", busy)
    monkeypatch.setattr(linger, "has_room", lambda _: True)
    assert side.close_notify()
    assert busy.waited
    assert sock.sent == [(ContentType.handshake, b""), CLOSE_NOTIFY]


def test_close_notify_by_two_at_once(
    scripted: Callable[..., ScriptedSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second sends none."""
    sock = scripted()
    side = sender(sock)

    def be_first() -> None:
        side.session.close_notify_sent = True

    monkeypatch.setattr(side, "writing", _Busy(be_first))
    monkeypatch.setattr(linger, "has_room", lambda _: True)
    assert side.close_notify()
    assert not sock.sent


def test_end_beside_one_that_lingers(
    scripted: Callable[..., ScriptedSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second does not send FIN in front of the close_notify that waits for room."""
    sock = scripted()
    side = sender(sock)
    lingering: list[linger.Ending] = []
    monkeypatch.setattr(linger, "finish", lingering.append)
    monkeypatch.setattr(linger, "has_room", lambda _: True)
    monkeypatch.setattr(side, "writing", _Busy(side.shut_down_later))
    side.shut_down()
    side.shut_down()
    (ending,) = lingering
    assert ending._alert == CLOSE_NOTIFY[1]
    ending.sock.close()
    assert not sock.sent
    assert not sock.shut


@pytest.mark.parametrize("room", [True, False])
def test_shut_down_beside_a_stuck_writer(
    scripted: Callable[..., ScriptedSocket], monkeypatch: pytest.MonkeyPatch, *, room: bool
) -> None:
    """Nobody waits for it: FIN alone wakes it, and is no orderly end."""
    sock = scripted()
    side = sender(sock)
    monkeypatch.setattr(side, "writing", _Busy(None))
    monkeypatch.setattr(linger, "has_room", lambda _: room)
    side.shut_down()
    assert not sock.sent
    assert sock.shut == [socket.SHUT_WR]
    assert side.session.close_notify_sent


def test_shut_down_without_a_descriptor(
    scripted: Callable[..., ScriptedSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none is to be had to go on with in the background the peer gets FIN, and no silence."""
    sock = scripted()
    side = sender(sock)
    monkeypatch.setattr(linger, "has_room", lambda _: False)
    lacking = counters()["shortage"]
    with Want("dup", 1):
        side.shut_down()
    assert not sock.sent
    assert sock.shut == [socket.SHUT_WR]
    assert counters()["shortage"] == lacking + 1
    assert side.close_notify(), "FIN need not wait any more"


def test_no_key_update_after_close_notify(scripted: Callable[..., ScriptedSocket]) -> None:
    """The peer would not read it."""
    sock = scripted()
    side = sender(sock, can_rekey=True)
    side.close_notify()
    with pytest.raises(BrokenPipeError):
        side.key_update()
    assert sock.sent == [CLOSE_NOTIFY]


def test_shut_down(scripted: Callable[..., ScriptedSocket]) -> None:
    """close_notify and FIN, in this order; a second time changes nothing on the wire."""
    sock = scripted()
    side = sender(sock)
    side.shut_down()
    side.shut_down()
    assert sock.sent == [CLOSE_NOTIFY]
    assert set(sock.shut) == {socket.SHUT_WR}


@pytest.mark.parametrize("version", list(ProtocolVersion))
def test_key_update_that_cannot_be(
    scripted: Callable[..., ScriptedSocket], version: ProtocolVersion
) -> None:
    """It is refused before anything was sent, and the connection goes on."""
    sock = scripted()
    with pytest.raises(RekeyUnsupported):
        sender(sock, version=version).key_update()
    assert not sock.sent
    assert not sock.shut


def test_key_update_that_does_not_fit(scripted: Callable[..., ScriptedSocket]) -> None:
    """Nothing is sent and no key changed: it stays due."""
    sock = scripted()
    sock.send_error = FULL
    side = sender(sock, can_rekey=True)
    side.session.update_due = True
    side.settle_if_free()
    assert side.session.update_due
    assert not side.writing.locked()
    with pytest.raises(BlockingIOError):
        side.settle(socket.MSG_DONTWAIT)


def test_key_the_kernel_refuses(scripted: Callable[..., ScriptedSocket]) -> None:
    """The peer has gone over to it, so the direction ends, and nothing follows on the old key."""
    sock = scripted()
    side = sender(sock, can_rekey=True)
    side.session.update_due = True
    with pytest.raises(KtlsError):  # this socket has no ULP
        side.settle(socket.MSG_DONTWAIT)
    assert [content_type for content_type, _ in sock.sent] == [ContentType.handshake]
    assert sock.shut == [socket.SHUT_WR]
    assert side.session.close_notify_sent


def test_nothing_due_after_close_notify(scripted: Callable[..., ScriptedSocket]) -> None:
    """No data can follow, so nothing has to precede it."""
    sock = scripted()
    side = sender(sock, can_rekey=True)
    side.close_notify()
    side.session.update_due = True
    side.settle()
    assert sock.sent == [CLOSE_NOTIFY]
