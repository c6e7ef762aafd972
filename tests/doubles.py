"""Stand-ins and harnesses: engines back to back, peers made by hand, failing system calls."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, AnyStr, Generic, Self, TypeVar

import pytest

from tlsify.codepoints import AlertDescription, ContentType, HandshakeType, ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.connection import establish
from tlsify.connection.ending.patience import unacknowledged
from tlsify.connection.establish import accept, connect
from tlsify.connection.handoff import Handoff, Offload
from tlsify.connection.setup import handshake
from tlsify.connection.stream import TLSSocket
from tlsify.errors import PeerMisbehaved
from tlsify.keys import Direction
from tlsify.ktls import uapi, ulp
from tlsify.ktls.probe import capabilities
from tlsify.tls import context, schedule
from tlsify.tls.engine import Engine
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.protection import open_record, seal_record
from tlsify.tls.record import HEADER_LENGTH, split_records
from tlsify.tls.room import RecordBuffer
from tlsify.tls.tunnel import ROOM_BEYOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from OpenSSL import SSL

    from tlsify.codepoints import Aead
    from tlsify.credentials.anchors import TrustAnchors
    from tlsify.credentials.key_pair import KeyPair
    from tlsify.keys import Keys, TrafficKeys
    from tlsify.tls.negotiated import Negotiated
    from tlsify.tls.tunnel import Tunnel

T = TypeVar("T")

# Of linux/filter.h and asm-generic/socket.h.
_BPF_RET, _SO_ATTACH_FILTER = 0x06, 26

RELAY = KtlsPolicy(KtlsMode.OFF)
KERNEL = KtlsPolicy(KtlsMode.REQUIRE)
# For parametrize: one suite, both ways to carry the records.
OFFLOADS = (
    pytest.param(RELAY, id="relay"),
    pytest.param(KERNEL, id="kernel", marks=pytest.mark.ktls),
)
VERSIONS = tuple(pytest.param(version, id=version.label) for version in ProtocolVersion)
CLOSE_NOTIFY = (ContentType.alert, bytes([1, AlertDescription.close_notify]))


def opened(tunnel: Tunnel, records: bytes) -> bytes:
    """Open what has come with a tunnel; return the plaintext."""
    room = RecordBuffer(len(records) + ROOM_BEYOND)
    size = tunnel.receive(records, room)
    if tunnel.failure is not None and not size:
        raise tunnel.failure
    return bytes(room.view[:size])


def emitted(tunnel: Tunnel) -> bytes:
    """Return the records that a tunnel has for its peer."""
    room, records = RecordBuffer(2**16), b""
    while size := tunnel.output_into(room):
        records += room.view[:size]
    return records


def keys_of(engine: Engine) -> Keys:
    """Return the keys of a finished handshake."""
    assert engine.keys is not None
    return engine.keys


def context_for(
    config: ClientConfig | ServerConfig, aeads: tuple[Aead, ...], now: float = 0.0
) -> SSL.Context:
    """Return the Context that connections of a configuration begin with."""
    return context.current(context.contexts_of(config), config, aeads, now)


class EnginePair:
    """A client's and a server's engine, wired to each other without a socket."""

    def __init__(
        self,
        client: ClientConfig,
        server: ServerConfig,
        aeads: tuple[Aead, ...] | None = None,
    ) -> None:
        """Make both engines; the client's first flight is ready."""
        self.client = Engine(client, aeads)
        self.server = Engine(server, aeads)

    @property
    def keys(self) -> tuple[Keys, Keys]:
        """The client's and the server's keys, once the handshake is finished."""
        return keys_of(self.client), keys_of(self.server)

    def step(self) -> bool:
        """Carry each side's output to the other, record by record; False if there was none."""
        moved = False
        for source, sink in ((self.client, self.server), (self.server, self.client)):
            for record in split_records(source.output()):
                moved = True
                sink.feed(record)
        return moved

    def run(self) -> tuple[Negotiated, Negotiated]:
        """Finish the handshake; return the client's and the server's outcome."""
        while self.step():
            pass
        client, server = self.client.result(), self.server.result()
        assert client is not None
        assert server is not None
        return client, server


class Endpoint(Generic[T]):
    """Runs one side of a conversation in a thread, and gives its result or raises its error."""

    def __init__(self, work: Callable[[], T]) -> None:
        """Start at once."""
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as exc:  # handed to the thread that asks
            self._error = exc

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return not self._thread.is_alive()

    def result(self, timeout: float = 60) -> T:
        """Wait for the end."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the other side hangs"
        if self._error is not None:
            raise self._error
        return self._result[0]


class FailingSocket(socket.socket):
    """A real socket whose n-th privileged call fails with a given errno."""

    def __init__(self, sock: socket.socket, fail_at: int, error: OSError) -> None:
        """Wrap a socket's descriptor; calls are counted from 0."""
        super().__init__(fileno=sock.detach())
        self.calls: list[tuple[Any, ...]] = []
        self._fail_at = fail_at
        self._error = error

    def setsockopt(self, *args: Any) -> None:
        """Fail if it is the turn of this call."""
        self.calls.append(args)
        if len(self.calls) - 1 == self._fail_at:
            raise self._error
        super().setsockopt(*args)


class FakeUlpSocket(FailingSocket):
    """A failing socket on which a kernel without kTLS seems to have it: no key is ever used."""

    def setsockopt(self, *args: Any) -> None:
        """Fail in turn; swallow what this kernel may not know."""
        self.calls.append(args)
        if len(self.calls) - 1 == self._fail_at:
            raise self._error
        if args[0] != uapi.SOL_TLS and args[:2] != (uapi.SOL_TCP, uapi.TCP_ULP):
            socket.socket.setsockopt(self, *args)


class ScriptedSocket(socket.socket):
    """Half of a kTLS socket: records come from a script as net/tls gives them (kernel.md 3.1)."""

    def __init__(self, *script: tuple[int, bytes] | int | None) -> None:
        """Script (content type, payload) for a record, an errno, or None for the end of stream."""
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.script = deque(script)
        self.sent: list[tuple[int, bytes]] = []
        self.send_error: OSError | None = None
        self.shut: list[int] = []
        self.error_read = False

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """Return the next record, or as much of it as fits."""
        assert ancbufsize >= socket.CMSG_LEN(1)
        if not self.script:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        upcoming = self.script[0]
        if upcoming is None:
            return b"", [], 0, None
        if isinstance(upcoming, int):
            raise OSError(upcoming, os.strerror(upcoming))
        content_type, payload = upcoming
        taken, rest = payload[:bufsize], payload[bufsize:]
        if not flags & socket.MSG_PEEK:
            if rest:
                self.script[0] = content_type, rest
            else:
                self.script.popleft()
        message_flags = (
            0 if rest or content_type == ContentType.application_data else socket.MSG_EOR
        )
        ancillary = [(uapi.SOL_TLS, uapi.TLS_GET_RECORD_TYPE, bytes([content_type]))]
        return taken, ancillary, message_flags, None

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """Do the same into a buffer."""
        (buffer,) = buffers
        taken, ancillary, message_flags, address = self.recvmsg(len(buffer), ancbufsize, flags)
        buffer[: len(taken)] = taken
        return len(taken), ancillary, message_flags, address

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        """Keep what is sent."""
        assert flags & socket.MSG_DONTWAIT
        assert address is None
        if self.send_error is not None:
            raise self.send_error
        ((level, kind, content_type),) = ancdata
        assert (level, kind) == (uapi.SOL_TLS, uapi.TLS_SET_RECORD_TYPE)
        (payload,) = buffers
        self.sent.append((content_type[0], payload))
        return len(payload)

    def shutdown(self, how: int, /) -> None:
        """Keep the direction."""
        self.shut.append(how)

    def getsockopt(self, *args: Any) -> Any:
        """Note that SO_ERROR was read: before that, sending fails."""
        self.error_read |= args[:2] == (socket.SOL_SOCKET, socket.SO_ERROR)
        return super().getsockopt(*args)


def until(condition: Callable[[], object], timeout: float = 60) -> None:
    """Wait for something that nothing can be waited on for.

    Who asks all the time takes it from the one who is waited for: the longer it has taken, the
    rarer.
    """
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < timeout, "it did not come true in time"
        select.select([], [], [], min(0.0005 + waited / 16, 0.02))


def call_within(inner: Callable[[], None]) -> None:
    """Call a function as from a call on a connection, for those who look at the stack."""
    names: dict[str, Any] = {"__name__": "tlsify.connection.stream"}
    exec("def call(inner):\n    inner()", names)
    names["call"](inner)


# A process of its own: a thread would need the interpreter's lock, and come at few moments.
_INTERRUPT = """
import os, select, signal
while os.read(0, 1):
    select.select([], [], [], 0.0003)
    os.kill(os.getppid(), signal.SIGUSR1)
"""


@contextmanager
def interrupted(handler: Callable[[], None]) -> Iterator[None]:
    """Have a signal handler run again and again in the midst of what the main thread does.

    Not by SIGALRM, which is the time limit's of a test.
    """
    reading, writing = os.pipe()

    def handle(*_: object) -> None:
        try:
            handler()
        finally:
            os.write(writing, b"x")  # for the next one

    before = signal.signal(signal.SIGUSR1, handle)
    with subprocess.Popen([sys.executable, "-ISc", _INTERRUPT], stdin=reading) as interrupting:
        os.close(reading)
        os.write(writing, b"x")
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            os.close(writing)
            interrupting.wait()
            signal.signal(signal.SIGUSR1, before)


def ends(process: subprocess.Popen[AnyStr], timeout: float = 60) -> int:
    """Wait for a program's end; return what `Popen.wait` does, which would look now and then."""
    if process.poll() is None:
        with open(os.pidfd_open(process.pid), "rb") as handle:
            assert select.select([handle], [], [], timeout)[0], "it did not end in time"
    return process.wait()


def own_clock(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Callable[[float], None]:
    """Stop a module's monotonic clock; return a function that moves it."""
    now = 1000.0

    def go(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    return go


def queued(sock: socket.socket) -> int:
    """Return how many bytes lie unread in a socket."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    return int(count)


def readable(sock: socket.socket, milliseconds: int) -> bool:
    """Return whether a socket becomes readable in time."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(milliseconds))


def reset(sock: socket.socket) -> None:
    """Close a TCP connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def vanish(sock: socket.socket) -> None:
    """Drop everything that comes in on a TCP socket: it neither answers nor acknowledges.

    By a filter that drops everything (socket(7) SO_ATTACH_FILTER), which takes no privilege. What
    it has sent must have arrived, or it would go on sending it.
    """
    until(lambda: not unacknowledged(sock))
    program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RET, 0, 0, 0))
    packed = struct.pack("@HP", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, packed)


def give_up(sock: socket.socket) -> None:
    """Make TCP soon give up, with ETIMEDOUT, a peer that reads nothing."""
    timeout = sock.gettimeout()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
    sock.settimeout(0)
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(2**16))
    sock.settimeout(timeout)


def descriptors(pid: int | str = "self") -> set[str]:
    """List a process's open descriptors by number and what they are; none once it has ended."""
    found = set()
    folder = f"/proc/{pid}/fd"
    with suppress(FileNotFoundError, ProcessLookupError):
        for entry in os.listdir(folder):
            with suppress(OSError):  # closed since it was listed
                found.add(f"{entry} {os.readlink(f'{folder}/{entry}')}")
    return found


def check_descriptors(before: set[str]) -> None:
    """Assert that nothing has been left open, once relays have ended."""
    try:
        until(lambda: descriptors() <= before)
    except AssertionError:
        raise AssertionError(f"still open: {descriptors() - before}") from None


def recv_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive that many bytes, or what there is before the end of the stream."""
    received = bytearray()
    while len(received) < size and (more := sock.recv(size - len(received))):
        received += more
    return bytes(received)


def read(handoff: Handoff, size: int = 2**16) -> bytes:
    """Read as docs/handoff.md tells a program to: plain recv, and ``service`` where that fails."""
    while True:
        try:
            data = handoff.sock.recv(size)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            if not handoff.service():
                return b""
            continue
        if not data:
            handoff.service()  # raises if this is no orderly end
        return data


def read_exactly(handoff: Handoff, size: int) -> bytes:
    """Read that many bytes of plaintext, or what there is before the end of the stream."""
    received = bytearray()
    while len(received) < size and (more := read(handoff, size - len(received))):
        received += more
    return bytes(received)


def flipped(record: bytes) -> bytes:
    """Flip a bit of a record: a byte put in its place could be the right one."""
    return record[:-1] + bytes([record[-1] ^ 1])


def new_session_ticket(ticket: bytes = b"ticket") -> bytes:
    """Build a NewSessionTicket message by hand (RFC 8446 4.6.1)."""
    nonce = b"\x01n"
    body = (3600).to_bytes(4, "big") + bytes(4) + nonce
    body += len(ticket).to_bytes(2, "big") + ticket + bytes(2)
    return bytes([HandshakeType.new_session_ticket]) + len(body).to_bytes(3, "big") + body


class HalfRecord(PeerMisbehaved):
    """The last record, of which the end has not come."""


class RawPeer:
    """A peer that does a real handshake and then builds and opens every record by hand."""

    def __init__(
        self, sock: socket.socket, config: ClientConfig | ServerConfig, *, hold: bool = False
    ) -> None:
        """Do the handshake.

        Args:
            sock: connected.
            config: decides the role.
            hold: keep the last flight in ``held`` instead of sending it.
        """
        self.sock = sock
        engine = Engine(config)
        while True:
            self.held = engine.output()
            negotiated = engine.result()
            if negotiated is not None:
                break
            sock.sendall(self.held)
            received = sock.recv(engine.need())
            assert received, "the handshake was cut short"
            engine.feed(received)
        if not hold:
            sock.sendall(self.held)
        self.negotiated = negotiated
        self._tx, self._rx, self._tx_secret, self._rx_secret = keys_of(engine)
        self._tx_seq, self._rx_seq = self._tx.seq, self._rx.seq

    def seal(self, content_type: ContentType, payload: bytes) -> bytes:
        """Build the next record."""
        record = seal_record(self._tx, self._tx_seq, content_type, payload)
        self._tx_seq += 1
        return record

    def data(self, payload: bytes) -> bytes:
        """Build the next record, of application data."""
        return self.seal(ContentType.application_data, payload)

    def send(self, content_type: ContentType, payload: bytes) -> None:
        """Send one record."""
        self.sock.sendall(self.seal(content_type, payload))

    def send_data(self, payload: bytes) -> None:
        """Send one record of application data."""
        self.sock.sendall(self.data(payload))

    def send_alert(self, description: AlertDescription, level: int = 2) -> None:
        """Send an alert."""
        self.send(ContentType.alert, bytes([level, description]))

    def close_notify(self) -> None:
        """End the sending direction in good order."""
        self.send(*CLOSE_NOTIFY)
        self.sock.shutdown(socket.SHUT_WR)

    def key_update(self, request: KeyUpdateRequest) -> bytes:
        """Build a KeyUpdate; what is built next uses the next generation."""
        record = self.seal(ContentType.handshake, encode_key_update(request))
        self.turn_key()
        return record

    def turn_key(self) -> None:
        """Build what comes next with the next generation."""
        suite = self.negotiated.suite
        self._tx_secret = bytearray(schedule.next_secret(suite, bytes(self._tx_secret)))
        self._tx, self._tx_seq = schedule.traffic_keys(suite, bytes(self._tx_secret)), 0

    def follow_key_update(self) -> None:
        """Open what comes next with the next generation."""
        suite = self.negotiated.suite
        self._rx_secret = bytearray(schedule.next_secret(suite, bytes(self._rx_secret)))
        self._rx, self._rx_seq = schedule.traffic_keys(suite, bytes(self._rx_secret)), 0

    def recv_raw(self) -> bytes:
        """Receive one record as it is on the wire; empty at the end of the stream."""
        header = recv_exactly(self.sock, 5)
        return header and header + recv_exactly(self.sock, int.from_bytes(header[3:5], "big"))

    def recv(self) -> tuple[int, bytes] | None:
        """Receive and open one record: content type and payload; None at the end of the stream.

        Tickets, which OpenSSL sends where the records are its own, are passed over.

        Raises:
            HalfRecord: the stream ends in the midst of a record.
        """
        while record := self.recv_raw():
            if len(record) < HEADER_LENGTH + int.from_bytes(record[3:5], "big"):
                raise HalfRecord("half a record", alert=AlertDescription.bad_record_mac)
            opened = open_record(self._rx, self._rx_seq, record)
            self._rx_seq += 1
            if opened[0] != ContentType.handshake or opened[1][0] == HandshakeType.key_update:
                return opened
        return None

    def recv_alert(self) -> AlertDescription:
        """Receive an alert, of which only the description matters, passing over data."""
        while (record := self.recv()) is not None:
            if record[0] == ContentType.alert:
                return AlertDescription(record[1][1])
        raise AssertionError("the stream ended without an alert")

    def recv_data(self, size: int) -> bytes:
        """Receive that much application data."""
        received = bytearray()
        while len(received) < size:
            record = self.recv()
            assert record is not None
            assert record[0] == ContentType.application_data
            received += record[1]
        return bytes(received)


# The certificate's own has to be among them.
_GROUPS = ("x25519", "secp256r1")


@functools.cache
def _configs(
    trust: TrustAnchors, key_pair: KeyPair, version: ProtocolVersion
) -> tuple[ClientConfig, ServerConfig]:
    """Make them once for all tests, with the quickest group: a context costs as much as that."""
    only = frozenset({version})
    return (
        ClientConfig(verify=False, trust=trust, timeout=60, versions=only, groups=_GROUPS),
        ServerConfig(key_pair=key_pair, timeout=60, versions=only, groups=_GROUPS),
    )


def backlog(port: int) -> int:
    """Return how many connections wait in a listening socket of loopback."""
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines():
        fields = line.split()
        if fields[1:4] == [f"0100007F:{port:04X}", "00000000:0000", "0A"]:
            return int(fields[4].partition(":")[2], 16)
    raise AssertionError("nobody listens")


def _make_inline(
    sock: socket.socket, config: ClientConfig | ServerConfig, policy: KtlsPolicy
) -> Handoff:
    """Do a handshake for a caller that carries the data itself."""
    sock = establish.take(sock)
    with establish.PendingConnection(sock, config, policy, is_inline=True) as opening:
        handshake.run(sock, opening.engine, config.timeout)
        return opening.commit()


_streams: list[socket.socket] = []


class _Kept(Handoff):
    """A hand-off whose TLSSocket lives until the end of the test, used or not."""

    __slots__ = ()

    def belong_to(self, owner: socket.socket, descriptor: socket.socket) -> None:
        _streams.append(owner)
        super().belong_to(owner, descriptor)


class Lab:
    """Makes connections over either offload, and takes them down at the end of the test.

    Attributes:
        is_inline: whether those with a peer made by hand are for `aio.pump.carry`.
    """

    is_inline = False

    def __init__(self, trust: TrustAnchors, key_pair: KeyPair) -> None:
        """Keep what configurations are made of."""
        self._stack = ExitStack()
        self.peers: list[socket.socket] = []
        self._trust, self._key_pair = trust, key_pair

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection; relays must end by themselves then."""
        for sock in self.peers:
            sock.close()
        self._stack.close()
        _streams.clear()

    def configs(
        self, version: ProtocolVersion = ProtocolVersion.TLSv1_3
    ) -> tuple[ClientConfig, ServerConfig]:
        """Return a client's and a server's configuration for one version."""
        return _configs(self._trust, self._key_pair, version)

    def tcp(self) -> tuple[socket.socket, socket.socket]:
        """Connect two sockets."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname(), timeout=60)
            theirs, _ = listener.accept()
        for sock in (ours, theirs):
            self._stack.enter_context(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(60)
        return ours, theirs

    def keep(self, handoff: Handoff) -> Handoff:
        """Close a hand-off at the end of the test."""

        def end() -> None:
            handoff.sock.close()
            if handoff.relay is not None:
                assert handoff.relay.join(10), "the relay goes on"

        assert handoff.offload is (Offload.KERNEL if handoff.relay is None else Offload.RELAY)
        self._stack.callback(end)
        handoff.sock.settimeout(60)
        handoff.__class__ = _Kept
        return handoff

    def pair(
        self, policy: KtlsPolicy, version: ProtocolVersion = ProtocolVersion.TLSv1_3
    ) -> tuple[Handoff, Handoff]:
        """Connect two hand-offs: the client's and the server's."""
        ours, theirs = self.tcp()
        client, server = self.configs(version)
        other = Endpoint(lambda: accept(theirs, server, policy))
        return self.keep(connect(ours, client, policy)), self.keep(other.result())

    def server(
        self, policy: KtlsPolicy, version: ProtocolVersion = ProtocolVersion.TLSv1_3
    ) -> tuple[Handoff, RawPeer]:
        """Connect a server's hand-off with a client made by hand."""
        ours, theirs = self.tcp()
        client, server = self.configs(version)
        make = _make_inline if self.is_inline else accept
        other = Endpoint(lambda: make(theirs, server, policy))
        self.peers.append(ours)
        peer = RawPeer(ours, client)
        return self.keep(other.result()), peer

    def client(
        self, policy: KtlsPolicy, version: ProtocolVersion = ProtocolVersion.TLSv1_3
    ) -> tuple[Handoff, RawPeer]:
        """Connect a client's hand-off with a server made by hand."""
        ours, theirs = self.tcp()
        client, server = self.configs(version)
        self.peers.append(theirs)
        other = Endpoint(lambda: RawPeer(theirs, server))
        make = _make_inline if self.is_inline else connect
        handoff = self.keep(make(ours, client, policy))
        return handoff, other.result()

    def far_on(
        self, monkeypatch: pytest.MonkeyPatch, aead: Aead, version: ProtocolVersion, seq: int
    ) -> tuple[Handoff, RawPeer]:
        """Connect as `client`, by the kernel, as if we had sent ``seq`` records already."""
        capabilities()  # tried now, without the patch
        client, server = self.configs(version)
        client, server = replace(client, aeads=(aead,)), replace(server, aeads=(aead,))
        ours, theirs = self.tcp()
        install = ulp.install

        def install_far_on(sock: socket.socket, direction: Direction, keys: TrafficKeys) -> None:
            if direction is Direction.TX:
                keys = replace(keys, seq=seq)
            install(sock, direction, keys)

        other = Endpoint(lambda: RawPeer(theirs, server))
        with monkeypatch.context() as patch:
            patch.setattr(ulp, "install", install_far_on)
            handoff = self.keep(connect(ours, client, KERNEL))
        peer = other.result()
        peer._rx_seq = seq
        self.peers.append(theirs)
        return handoff, peer

    def stream(
        self, policy: KtlsPolicy, version: ProtocolVersion = ProtocolVersion.TLSv1_3
    ) -> tuple[TLSSocket, RawPeer]:
        """Connect as `server`, with a TLSSocket."""
        handoff, peer = self.server(policy, version)
        return TLSSocket(handoff), peer


class Middleman:
    """Forwards a TCP connection and keeps every byte that passes."""

    def __init__(self, left: socket.socket, right: socket.socket) -> None:
        """Forward until both directions have ended.

        Args:
            left: the near end of a connection to one side.
            right: likewise to the other.
        """
        self.from_left, self.from_right = bytearray(), bytearray()
        self._directions = (
            Endpoint(lambda: self._forward(left, right, self.from_left)),
            Endpoint(lambda: self._forward(right, left, self.from_right)),
        )

    @staticmethod
    def _forward(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):  # a side that has closed for good
            while data := source.recv(2**16):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def join(self) -> None:
        """Wait for both ends of stream."""
        for direction in self._directions:
            direction.result()
