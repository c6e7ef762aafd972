"""The sending side of a kTLS socket: alerts, KeyUpdates and close_notify among the data."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, TypeVar

from tlsify.codepoints import AlertDescription, ContentType, ProtocolVersion
from tlsify.connection.ending import linger
from tlsify.connection.ending.linger import Ending
from tlsify.connection.turn import Turn
from tlsify.errors import KtlsError, RekeyUnsupported
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.metrics.counters import Event, count
from tlsify.tls.messages import KeyUpdateRequest, encode_alert, encode_key_update
from tlsify.tls.wear import worn_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.connection.ending.linger import Receiver
    from tlsify.tls.session import KeyGeneration, Session

T = TypeVar("T")

CLOSE_NOTIFY = encode_alert(AlertDescription.close_notify)
# Records between two checks of the number sent.
KEY_LIMIT_MARGIN = 2**18
# Seconds to wait for another thread's send before treating it as stuck.
_MOMENT = 0.2


class Sender:
    """Sends control records, in the right places between data.

    A thread that sends data holds ``writing``; it is also held across a KeyUpdate and the change of
    the key after it, so that no data record gets between the two. A receiver never waits for it:
    RFC 8446 4.6.3 requires the answer to a KeyUpdate before the next data record, and the thread
    that sends that record sends the answer first (`settle`).

    Attributes:
        sock: keyed in both directions.
        session: the socket's own.
        writing: the right to send.
        is_changing_key: whether a KeyUpdate is being sent, or its key installed.
    """

    def __init__(self, sock: socket.socket, session: Session) -> None:
        """Take over a socket directly after its keys were installed."""
        self.sock = sock
        self.session = session
        self.writing = Turn()
        self.is_changing_key = False
        self._ending: Ending | None = None
        self._is_ending = False

    def abort(self, alert: AlertDescription | None) -> None:
        """End the sending direction, not in order: an alert if one is due, and FIN."""
        self.session.close_notify_sent = True  # this is no orderly end
        if alert is not None:
            self.send_if_possible(ContentType.alert, encode_alert(alert))
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def send_if_possible(self, content_type: ContentType, payload: bytes) -> None:
        """Send a control record without waiting."""
        with contextlib.suppress(OSError):
            self._send_at_once(content_type, payload)

    def _send_at_once(self, content_type: ContentType, payload: bytes) -> None:
        """Send a control record without waiting.

        Raises:
            OSError: as ``sendmsg``; BlockingIOError leaves nothing sent.
        """
        if not linger.has_room(self.sock):
            raise BlockingIOError(errno.EAGAIN, "no room")
        self.pass_over(
            lambda: ulp.send_record(self.sock, content_type, payload, socket.MSG_DONTWAIT)
        )

    def pass_over(self, attempt: Callable[[], T]) -> T:
        """Send, despite malformed input behind close_notify, which is ignored (RFC 8446 6.1).

        The kernel reports bytes that are no record to a send, too (net/tls/tls_sw.c tls_err_abort).
        """
        try:
            return attempt()
        except OSError as exc:
            if not self.session.peer_closed or ulp.bad_record(exc.errno) is None:
                raise
        self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # reading the error clears it
        return attempt()

    # -- keys

    def key_update(self, *, request: bool = False) -> None:
        """Change the sending key; ``writing`` must be held.

        Args:
            request: ask the peer to change its own.

        Raises:
            RekeyUnsupported: TLS 1.2, or a kernel that cannot; nothing was sent.
            BlockingIOError: non-blocking, and the KeyUpdate does not fit now; nothing was sent.
            OSError: the connection broke, or its sending direction has ended.
        """
        if not self.session.can_rekey:
            reason, hint = "this kernel cannot rekey", None
            if self.session.version is not ProtocolVersion.TLSv1_3:
                reason, hint = "TLS 1.2 has no KeyUpdate", "use TLS 1.3"
            raise RekeyUnsupported("TLS_TX", 0, reason, hint=hint)
        if self.session.close_notify_sent:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._update(KeyUpdateRequest(request), 0)

    def settle(self, flags: int = 0) -> None:
        """Send the KeyUpdate that has to precede the next data record; ``writing`` must be held.

        Raises:
            As `key_update`.
        """
        if self.session.update_due and not self.session.close_notify_sent:
            self._update(KeyUpdateRequest.update_not_requested, flags)

    def settle_if_free(self) -> None:
        """Settle without waiting; a thread that is sending now settles afterwards."""
        if self.session.update_due and self.writing.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):  # a broken connection shows where data goes
                    self.settle(socket.MSG_DONTWAIT)
            finally:
                self.writing.release()

    def _update(self, request: KeyUpdateRequest, flags: int) -> None:
        self.is_changing_key = True
        try:
            following = self.session.next_generation(Direction.TX)
            try:
                self.change_key(following, request, flags)
            finally:
                following.wipe()
        finally:
            self.is_changing_key = False

    def change_key(
        self,
        following: KeyGeneration,
        request: KeyUpdateRequest = KeyUpdateRequest.update_not_requested,
        flags: int = 0,
    ) -> None:
        """Send a KeyUpdate and install the next key; ``writing`` must be held.

        Args:
            following: the next key, derived beforehand: the two system calls should follow each
                other closely, since a writer to the bare descriptor could come between them.
            request: whether the peer is to change its own.
            flags: as for ``sendmsg``.

        Raises:
            KtlsError: the kernel refuses the key; the connection was ended.
            OSError: as `key_update`.
        """
        ulp.send_record(self.sock, ContentType.handshake, encode_key_update(request), flags)
        self.install(Direction.TX, following)
        count(Event.KEY_UPDATE_SENT)

    def install(self, direction: Direction, generation: KeyGeneration) -> None:
        """Switch one direction to its next key generation.

        Raises:
            KtlsError: the kernel refuses it; the connection was ended.
        """
        try:
            ulp.install(self.sock, direction, generation.keys)
        except KtlsError:
            self.abort(None)  # the peer has the next key already, or we lack it
            raise
        self.session.enter(direction, generation)

    def refresh(self, *, may_update: bool = True) -> bool:
        """Change the sending key before it reaches its usage limit (RFC 8446 5.5).

        ``writing`` must be held.

        Args:
            may_update: False postpones a change for as long as possible.

        Returns:
            Whether a change was postponed.

        Raises:
            RekeyUnsupported: the key has reached its limit: the connection was ended.
            OSError: as `key_update`.
        """
        session = self.session
        if (limit := session.suite.aead.record_limit) is None:
            return False
        sent = ulp.next_seq(self.sock, Direction.TX, session.suite.aead)
        is_worn = session.can_rekey and sent >= limit // 2
        if is_worn and may_update:
            self.key_update()
            return False
        if sent >= limit - KEY_LIMIT_MARGIN:
            count(Event.KEY_LIMIT_REACHED)
            self.abort(AlertDescription.internal_error)
            raise worn_out("TLS_TX", f"{sent} records")
        return is_worn

    # -- closing

    def close_notify(self) -> bool:
        """Send close_notify, once; return False if it has to wait for long.

        Never between a KeyUpdate and the change of the key, and no KeyUpdate behind it: the peer
        could not open the one, and will not read the other. False, too, if `shut_down_later` will
        send it: FIN must not come before.
        """
        if self.session.close_notify_sent:
            return not self._is_ending
        if not self.writing.acquire(blocking=False) and not (
            linger.has_room(self.sock) and self.writing.acquire(timeout=_MOMENT)
        ):
            return False  # another thread is stuck in the midst of its data
        try:
            if not self.session.close_notify_sent:
                self._send_at_once(ContentType.alert, CLOSE_NOTIFY)
        except BlockingIOError:
            return False
        except OSError:  # the peer is gone
            self.session.close_notify_sent = True
        else:
            self.session.close_notify_sent = True
        finally:
            self.writing.release()
        return not self._is_ending

    def shut_down(self) -> None:
        """End the sending direction: close_notify, then FIN, in the background if need be."""
        if self.close_notify():
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        else:
            self.shut_down_later()

    def shut_down_later(self) -> None:
        """Shut down in the background, since `close_notify` could not be sent; once.

        A full send buffer must neither make this wait nor cost the peer the end of the data that
        it is still reading.
        """
        if self._may_say_goodbye_later():
            try:
                duplicate = self._duplicate()
            except OSError:  # no descriptor is available: a cut is better than silence
                count(Event.SHORTAGE)
                self._cut()
                return
            self._ending = Ending(duplicate, CLOSE_NOTIFY)
            linger.finish(self._ending)

    def _may_say_goodbye_later(self) -> bool:
        """Mark the connection as ended, once; return whether close_notify is due."""
        if self._is_ending:
            return False
        self._is_ending = True  # before `close_notify_sent`: readers of the latter rely on it
        self.session.close_notify_sent = True
        if self.writing.acquire(timeout=_MOMENT):
            self.writing.release()
            return True
        self._cut()  # another thread is stuck in the midst of its data: this wakes it
        return False

    def _cut(self) -> None:
        """Send FIN alone, if no close_notify will follow."""
        self._is_ending = False
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def part(self, receiver: Receiver, *, in_order: bool = True) -> Ending | None:
        """End both directions; return the ending that delivers outstanding data in the background.

        It has ``sock``'s descriptor then, or one of its own; close ``sock`` in either case.

        Args:
            receiver: receives and drops input from ``sock``.
            in_order: whether with close_notify.
        """
        is_owed = linger.is_owed(self.sock)
        alert = None
        if not in_order:
            self.session.close_notify_sent = True
        elif not self.close_notify() and self._may_say_goodbye_later():
            alert = CLOSE_NOTIFY
        ending = self._ending
        if ending is not None and ending.take(receiver):
            self.sock = ending.sock
            return ending
        if not is_owed and alert is None:
            receiver.wipe()
            return None
        self.sock = socket.socket(fileno=self.sock.detach())
        self._ending = Ending(self.sock, alert, receiver)
        linger.finish(self._ending)
        return self._ending

    def _duplicate(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.sock.fileno()))
