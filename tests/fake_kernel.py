"""Kernel TLS in userspace: what a keyed descriptor does, on hosts whose kernel has none.

`FakeSocket` is written after net/tls, so that its oddities come about as they do there;
tests/test_fake_kernel.py holds it to the real kernels. A record stays in the TCP socket until it is
decrypted, so FIONREAD, resets and what close() does about unread bytes are the real ones. But:

- The descriptor's own poll knows nothing of records: ask `FakeSocket.readable`. read, write, splice
  and sendfile see the ciphertext, and so does another process that gets the descriptor.
- What TCP does not take of a record goes out with the next call on this object; a kernel sends it
  by itself as soon as there is room, and may refuse a record earlier than this does.
- On a dead connection a kernel accepts what is sent, some 50 MB, and then says EPIPE; this goes on.
- SO_RCVTIMEO starts again when a record's header has come, and a record has to fit into SO_RCVBUF.
- No MSG_MORE, no TLS_RX_EXPECT_NO_PAD, no TLS_TX_ZEROCOPY_RO; flags of a send are not checked, and
  MSG_PEEK never gives MSG_EOR.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from sys import byteorder
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from tlsify.codepoints import AlertDescription, CipherSuite, ContentType, ProtocolVersion
from tlsify.errors import PeerMisbehaved
from tlsify.keys import SEQ_LIMIT, TrafficKeys
from tlsify.ktls import uapi
from tlsify.ktls.crypto_info import HEADER, LAYOUT, pack, unpack_seq
from tlsify.tls.protection import TAG_LENGTH, open_record, seal_record
from tlsify.tls.record import HEADER_LENGTH, MAX_PLAINTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer, WriteableBuffer

T = TypeVar("T")
Control = list[tuple[int, int, bytes]]

_ESTABLISHED = 1  # net/tcp_states.h
_COUNTERS = ("TlsDecryptError", "TlsRxRekeyOk", "TlsTxRekeyOk", "TlsRxRekeyReceived")
# The kernel knows versions and ciphers, not how keys were exchanged: one suite stands for each.
_SUITES = {(suite.version.value, LAYOUT[suite.aead].cipher_type): suite for suite in CipherSuite}


@dataclass(frozen=True)
class FakeKernel:
    """What kernels differ in."""

    rekey: bool  # take a second TLS 1.3 key, and stop reading at a KeyUpdate (6.14)
    polls_partial_records: bool  # are readable on any byte (before 6.5)
    max_payload: bool  # have TLS_TX_MAX_PAYLOAD_LEN (6.19)
    LINUX_6_1: ClassVar[FakeKernel]
    LINUX_6_12: ClassVar[FakeKernel]
    LINUX_7_3: ClassVar[FakeKernel]


FakeKernel.LINUX_6_1 = FakeKernel(rekey=False, polls_partial_records=True, max_payload=False)
FakeKernel.LINUX_6_12 = FakeKernel(rekey=False, polls_partial_records=False, max_payload=False)
FakeKernel.LINUX_7_3 = FakeKernel(rekey=True, polls_partial_records=False, max_payload=True)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _in_tls13(keys: TrafficKeys | None) -> bool:
    return keys is not None and keys.suite.version is ProtocolVersion.TLSv1_3


def _explicit_nonce(keys: TrafficKeys) -> int:
    """How long it is."""
    return 0 if _in_tls13(keys) or not keys.suite.aead.has_explicit_nonce else 8


class _Wire:
    """The TCP connection, and the error that the kernel keeps as sk_err."""

    def __init__(self, sock: socket.socket, kernel: FakeKernel) -> None:
        # An object without the Python timeout, with which CPython polls before system calls.
        self.tcp = socket.socket(fileno=os.dup(sock.fileno()))
        self.kernel = kernel
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self.error = 0

    def pending_error(self) -> int:
        self.error = self.error or self.tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return self.error

    def take_error(self) -> int:
        number, self.error = self.pending_error(), 0
        return number

    def established(self) -> bool:
        return self.tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED

    def events(self) -> int:
        poller = select.poll()
        poller.register(self.tcp, select.POLLIN | select.POLLRDHUP)
        return next((events for _, events in poller.poll(0)), 0)


class _Half:
    """One direction's key and the number of its next record."""

    name: ClassVar[str]

    def __init__(self, wire: _Wire) -> None:
        self.wire = wire
        self.keys: TrafficKeys | None = None
        self.seq = 0

    def set_key(self, packed: bytes, other: _Half) -> None:
        """Source: tls_main.c do_tls_setsockopt_conf, whose order of checks this follows."""
        present = self.keys
        if len(packed) < HEADER.size:
            raise _error(errno.EINVAL)
        if present is not None and not (self.wire.kernel.rekey and _in_tls13(present)):
            raise _error(errno.EBUSY)
        suite, agreed = _SUITES.get(HEADER.unpack_from(packed)), present or other.keys
        if suite is None or (agreed is not None and agreed.suite is not suite):
            raise _error(errno.EINVAL)
        layout = LAYOUT[suite.aead]
        if len(packed) != layout.size:
            raise _error(errno.EINVAL)
        key = HEADER.size + layout.iv
        salt = key + layout.key
        iv = packed[salt : salt + layout.salt] + packed[HEADER.size : key]
        self.seq = unpack_seq(packed)
        self.keys = TrafficKeys(suite, bytearray(packed[key:salt]), bytearray(iv), self.seq)
        if present is not None:
            self.wire.counters[f"Tls{self.name}RekeyOk"] += 1

    def get_key(self, size: int) -> bytes:
        if size < HEADER.size:
            raise _error(errno.EINVAL)
        if self.keys is None:
            raise _error(errno.EBUSY)
        iv = self.keys.iv
        if length := _explicit_nonce(self.keys):
            nonce = int.from_bytes(iv[-length:], "big") + self.seq - self.keys.seq
            iv = iv[:-length] + (nonce % SEQ_LIMIT).to_bytes(length, "big")
        packed = bytes(pack(replace(self.keys, iv=iv, seq=self.seq)))
        if size not in {HEADER.size, len(packed)}:
            raise _error(errno.EINVAL)
        return packed[:size]

    def count(self) -> None:
        self.seq = (self.seq + 1) % SEQ_LIMIT
        if self.seq == 0:
            self.wire.error = errno.EBADMSG


class _Sender(_Half):
    """Source: tls_sw.c tls_sw_sendmsg."""

    name = "Tx"
    limit = MAX_PLAINTEXT
    _tail = b""

    def flush(self, flags: int = socket.MSG_DONTWAIT) -> bool:
        """Go on with the last record; False if it is lost, as TCP takes nothing any more."""
        try:
            while self._tail:
                self._tail = self._tail[self.wire.tcp.send(self._tail, flags) :]
        except BlockingIOError:
            pass
        except OSError:
            self._tail = b""
            return False
        return True

    def send(self, content_type: int, payload: bytes, flags: int) -> int:
        assert self.keys is not None
        kind: Any = content_type  # any byte
        sent, alive = 0, True
        while alive and sent < len(payload):
            self.flush(flags)
            number = self.wire.pending_error() or (errno.EAGAIN if self._tail else 0)
            if number and sent:
                break
            if number:
                # EPIPE alone is taken with that (net/core/stream.c sk_stream_error)
                raise _error(self.wire.take_error() if number == errno.EPIPE else number)
            piece = payload[sent : sent + self.limit]
            self._tail = seal_record(self.keys, self.seq, kind, piece)
            self.count()
            # A lost record counts as sent; the last one of all does not, though it is.
            sent += len(piece) if self.seq else 0
            alive = self.flush(flags)
        return sent


class _Received:
    """What one system call gives."""

    def __init__(self, size: int, space: int) -> None:
        self.payload = bytearray()
        self.content_type: int | None = None
        self.msg_flags = 0
        self._size, self._space = size, space

    @property
    def room(self) -> int:
        return self._size - len(self.payload)

    @property
    def control(self) -> Control:
        if self.content_type is None or self._space < socket.CMSG_LEN(0):
            return []
        data = bytes([self.content_type])[: self._space - socket.CMSG_LEN(0)]
        return [(uapi.SOL_TLS, uapi.TLS_GET_RECORD_TYPE, data)]

    def admits(self, content_type: int) -> bool:
        """Source: tls_sw.c tls_record_content_type."""
        if self.content_type is not None:
            return content_type == self.content_type
        if not content_type:
            raise _error(errno.EBADMSG)
        self.content_type = content_type
        if self._space < socket.CMSG_LEN(1):
            self.msg_flags |= socket.MSG_CTRUNC
            if content_type != ContentType.application_data:
                raise _error(errno.EIO)
        return True


class _Receiver(_Half):
    """Source: tls_strp.c, tls_sw.c tls_sw_recvmsg."""

    name = "Rx"
    update_pending = False
    _stopped = False

    def __init__(self, wire: _Wire) -> None:
        super().__init__(wire)
        self.parked: deque[tuple[int, bytes]] = deque()  # the kernel's rx_list

    def set_key(self, packed: bytes, other: _Half) -> None:
        super().set_key(packed, other)
        self.update_pending = False

    def _peek(self, size: int, flags: int = socket.MSG_DONTWAIT) -> bytes:
        return self.wire.tcp.recv(size, socket.MSG_PEEK | flags)

    def look(self) -> tuple[bytes, int]:
        """Return the next record once all of it is there, and how many bytes that takes.

        Source: tls_sw.c tls_rx_msg_size, with its order of checks.
        """
        if self.keys is None or self._stopped:
            return b"", MAX_PLAINTEXT * 2
        prefix = HEADER_LENGTH + _explicit_nonce(self.keys)
        overhead = TAG_LENGTH + _explicit_nonce(self.keys)
        try:
            header = self._peek(prefix)
            if len(header) < prefix:
                return b"", prefix
            length = int.from_bytes(header[3:5], "big")
            if length > MAX_PLAINTEXT + overhead + _in_tls13(self.keys):
                self.wire.error = errno.EMSGSIZE
            elif length < overhead:
                self.wire.error = errno.EBADMSG
            elif header[1:3] != b"\3\3":
                self.wire.error = errno.EINVAL
            else:
                record = self._peek(HEADER_LENGTH + length)
                whole = len(record) == HEADER_LENGTH + length
                return record if whole else b"", HEADER_LENGTH + length
            self._stopped = True
        except BlockingIOError:
            pass
        except OSError as exc:  # to have seen a reset is to have taken it
            self.wire.error = exc.errno or 0
        return b"", prefix

    def _wait(self, flags: int, *, copied: bool) -> bytes:
        """Source: tls_sw.c tls_rx_rec_wait; empty at the end of the stream."""
        if self.update_pending:
            raise _error(uapi.EKEYEXPIRED)
        timed_out = bool(flags & socket.MSG_DONTWAIT)
        while True:
            record, wanted = self.look()
            if record:
                return record
            if number := self.wire.pending_error():
                # 6.1 lacks a fix that 6.12.92 has, and loses it behind data.
                if not copied or self.wire.kernel.polls_partial_records:
                    self.wire.take_error()
                raise _error(number)
            if self.wire.events() & select.POLLRDHUP:
                return b""
            if timed_out:
                raise _error(errno.EAGAIN)
            timed_out = len(self._peek(wanted, socket.MSG_WAITALL)) < wanted

    def _decrypt(self, record: bytes) -> tuple[int, bytes]:
        """Receive a record from TCP if it opens."""
        assert self.keys is not None
        opaque = record
        if _in_tls13(self.keys):
            # the kernel takes the outer type for granted
            opaque = bytes([ContentType.application_data]) + record[1:]
        try:
            content_type, payload = open_record(self.keys, self.seq, opaque)
        except PeerMisbehaved as exc:
            if exc.alert is AlertDescription.bad_record_mac:
                self.wire.counters["TlsDecryptError"] += 1
            self.wire.error = errno.EBADMSG
            raise _error(errno.EBADMSG) from exc
        self.wire.tcp.recv(len(record), socket.MSG_WAITALL)
        self.count()
        handshake = content_type == ContentType.handshake
        if self.wire.kernel.rekey and handshake and payload.startswith(b"\x18"):
            self.update_pending = True
            self.wire.counters["TlsRxRekeyReceived"] += 1
        return content_type, payload

    def _park_next(self, flags: int, *, copied: bool) -> bool:
        """Decrypt one more record; False at the end of the stream, and for errors behind data."""
        try:
            record = self._wait(flags, copied=copied)
            if record:
                self.parked.append(self._decrypt(record))
        except OSError:
            if not copied:
                raise
            return False
        return bool(record)

    def receive(self, size: int, space: int, flags: int) -> _Received:
        got, peeked = _Received(size, space), 0
        target = size if flags & socket.MSG_WAITALL else 1
        while True:
            for content_type, payload in tuple(self.parked)[peeked:]:
                if not got.room or not got.admits(content_type):
                    return got
                chunk = payload[: got.room]
                got.payload += chunk
                if flags & socket.MSG_PEEK:
                    peeked += 1
                    continue
                self.parked.popleft()
                if rest := payload[len(chunk) :]:
                    self.parked.appendleft((content_type, rest))
                    return got
                got.msg_flags |= socket.MSG_EOR
            if (
                not got.room
                or got.content_type not in {None, ContentType.application_data}
                or (len(got.payload) >= target and not self.look()[0])
                or not self._park_next(flags, copied=bool(got.payload))
            ):
                return got


class FakeSocket(socket.socket):
    """A connected TCP socket on a kernel of one's choice; takes over another's descriptor."""

    def __init__(self, sock: socket.socket, kernel: FakeKernel = FakeKernel.LINUX_7_3) -> None:
        timeout = sock.gettimeout()
        super().__init__(fileno=sock.detach())
        self.settimeout(timeout)
        self._wire = _Wire(self, kernel)
        self._tx, self._rx = _Sender(self._wire), _Receiver(self._wire)
        self._attached = False
        # what /proc/net/tls_stat would count for this socket
        self.counters = self._wire.counters

    def readable(self) -> bool:
        """Return whether a poll for POLLIN would return, as it does at errors and the end too."""
        self._tx.flush()
        complete, wire = bool(self._rx.look()[0]), self._wire
        if wire.pending_error():
            return True
        events = wire.events()
        silent = self._rx.keys is not None and not wire.kernel.polls_partial_records
        if silent and wire.established() and not events & select.POLLRDHUP:
            return bool(self._rx.parked or complete) and not self._rx.update_pending
        return bool(self._rx.parked or events)

    def setsockopt(self, *args: Any) -> None:
        """Attach the ULP, install a key, limit the payload; anything else goes to TCP."""
        level, name, value = args[:3]
        if (level, name) == (uapi.SOL_TCP, uapi.TCP_ULP):
            if value != b"tls" or self._attached:
                raise _error(errno.EEXIST if value == b"tls" else errno.ENOENT)
            if not self._wire.established():
                raise _error(errno.ENOTCONN)
            self._attached = True
        elif level != uapi.SOL_TLS or not self._attached:
            super().setsockopt(*args)
        elif name == uapi.TLS_TX:
            self._tx.set_key(bytes(value), self._rx)
        elif name == uapi.TLS_RX:
            self._rx.set_key(bytes(value), self._tx)
        elif name == uapi.TLS_TX_MAX_PAYLOAD_LEN and self._wire.kernel.max_payload:
            keys, limit = self._tx.keys or self._rx.keys, int.from_bytes(value, byteorder)
            if len(value) != 2 or not 64 - _in_tls13(keys) <= limit <= MAX_PLAINTEXT:
                raise _error(errno.EINVAL)
            self._tx.limit = limit
        else:
            raise _error(errno.ENOPROTOOPT)

    def getsockopt(self, *args: int) -> Any:
        """Return what was set, or the pending error; anything else comes from TCP."""
        level, name, size = (*args, 0)[:3]
        if (level, name) == (uapi.SOL_TCP, uapi.TCP_ULP) and self._attached:
            return b"tls".ljust(uapi.TCP_ULP_NAME_MAX, b"\0")[:size]
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR):
            self._rx.look()
            return self._wire.take_error()
        if level != uapi.SOL_TLS or not self._attached:
            return super().getsockopt(*args)
        if name in {uapi.TLS_TX, uapi.TLS_RX}:
            return (self._tx if name == uapi.TLS_TX else self._rx).get_key(size)
        if name != uapi.TLS_TX_MAX_PAYLOAD_LEN or not self._wire.kernel.max_payload:
            raise _error(errno.ENOPROTOOPT)
        if size < 2:
            raise _error(errno.EINVAL)
        return self._tx.limit.to_bytes(2, byteorder)

    def _patiently(self, call: Callable[[int], T], ready: Callable[[], bool]) -> T:
        """Behave as CPython: with a timeout, poll first, and again after EAGAIN."""
        timeout = self.gettimeout()
        if not timeout:
            return call(0 if timeout is None else socket.MSG_DONTWAIT)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if ready():
                with suppress(BlockingIOError):
                    return call(socket.MSG_DONTWAIT)
            select.select([], [], [], 0.0005)
        raise TimeoutError("timed out")

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send data records."""
        return self.sendmsg([data], (), flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send data records until all of it is sent."""
        payload = bytes(data)
        while payload:
            payload = payload[self.send(payload, flags) :]

    def sendmsg(self, buffers: Iterable[ReadableBuffer], *args: Any) -> int:
        """Send data records, or control records of the type that the ancillary data names."""
        if self._tx.keys is None:
            return super().sendmsg(buffers, *args)
        ancdata, flags = (*args, *((), 0)[len(args) :])[:2]
        types = [(kind, data) for level, kind, data in ancdata if level == uapi.SOL_TLS]
        if ancdata and not types:
            raise _error(errno.EINVAL)
        content_type: int = ContentType.application_data
        for kind, data in types:
            if kind != uapi.TLS_SET_RECORD_TYPE or not data:
                raise _error(errno.EINVAL)
            content_type = data[0]
        payload = b"".join(map(bytes, buffers))
        self._rx.look()
        return self._patiently(
            lambda wait: self._tx.send(content_type, payload, flags | wait), lambda: True
        )

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive data; EIO for anything else."""
        return self.recvmsg(size, 0, flags)[0]

    def recv_into(self, buffer: WriteableBuffer, size: int = 0, flags: int = 0) -> int:
        """Receive data into a buffer; EIO for anything else."""
        view = memoryview(buffer).cast("B")
        return self.recvmsg_into([view[: size or None]], 0, flags)[0]

    def recvmsg(
        self, size: int, space: int = 0, flags: int = 0, /
    ) -> tuple[bytes, Control, int, Any]:
        """Receive data or one control record, with its type in the ancillary data."""
        if self._rx.keys is None:
            return super().recvmsg(size, space, flags)
        self._tx.flush()
        got = self._patiently(
            lambda wait: self._rx.receive(size, space, flags | wait), self.readable
        )
        return bytes(got.payload), got.control, got.msg_flags, None

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], space: int = 0, flags: int = 0, /
    ) -> tuple[int, Control, int, Any]:
        """Receive as `recvmsg`, into buffers."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        payload, *others = self.recvmsg(sum(map(len, views)), space, flags)
        position = 0
        for view in views:
            chunk = payload[position : position + len(view)]
            view[: len(chunk)] = chunk
            position += len(chunk)
        return len(payload), *others

    def shutdown(self, how: int, /) -> None:
        """End the TCP stream; no close_notify."""
        self._tx.flush()
        super().shutdown(how)

    def detach(self) -> int:
        """Return the descriptor away, which is plain TCP from then on."""
        self._wire.tcp.close()
        return super().detach()

    def close(self) -> None:
        """Close the TCP connection; no close_notify."""
        super().close()
        if self.fileno() < 0:
            self._tx.flush()
            self._wire.tcp.close()
