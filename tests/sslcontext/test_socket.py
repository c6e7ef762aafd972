"""Tests of socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.conftest import HOST
from tests.doubles import (
    OFFLOADS,
    RELAY,
    Endpoint,
    Lab,
    check_descriptors,
    descriptors,
    queued,
    recv_exactly,
    reset,
    until,
)
from tests.ports import free_port
from tests.want import no_descriptors
from tlsify.sslcontext.socket import SSLSocket
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

    from tlsify.config import ClientConfig, KtlsPolicy, ServerConfig

both = pytest.mark.parametrize("policy", OFFLOADS)


@dataclass
class Fixed:
    """A context that never changes."""

    server: ServerConfig
    client: ClientConfig
    policy: KtlsPolicy = RELAY

    def server_config(self) -> ServerConfig:
        """Give it."""
        return self.server

    def client_config(self, server_hostname: str | None) -> ClientConfig:
        """Give it."""
        assert server_hostname == HOST
        return self.client


@pytest.fixture
def context(server_config: ServerConfig, client_config: ClientConfig) -> Fixed:
    """One for both roles."""
    return Fixed(server_config, client_config)


@pytest.fixture
def python(authority: trustme.CA) -> ssl.SSLContext:
    """Python's own, of a client."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(made)
    made.set_alpn_protocols(["http/1.1"])
    return made


@pytest.fixture
def listener(context: Fixed) -> Iterator[SSLSocket]:
    """A wrapped listening socket."""
    plain = socket.create_server(("127.0.0.1", 0))
    with SSLSocket(plain, context, server_side=True) as made:
        made.settimeout(60)
        yield made


@contextlib.contextmanager
def _connected(
    lab: Lab, context: Fixed, python: ssl.SSLContext, policy: KtlsPolicy = RELAY, **options: Any
) -> Iterator[tuple[SSLSocket, ssl.SSLSocket]]:
    """Connect a server of ours, its handshake not yet done, with a client of Python's."""
    context.policy = policy
    ours, theirs = lab.tcp()
    with SSLSocket(theirs, context, server_side=True, **options) as served:
        client = Endpoint(lambda: python.wrap_socket(ours, server_hostname=HOST))
        served.do_handshake()
        with client.result() as peer:
            yield served, peer


@pytest.mark.each_kernel
@both
def test_conversation(
    lab: Lab, context: Fixed, python: ssl.SSLContext, policy: KtlsPolicy, tmp_path: Path
) -> None:
    """Every way to receive and send; the descriptor's number stays."""
    context.policy = policy
    ours, theirs = lab.tcp()
    theirs.set_inheritable(True)
    served = SSLSocket(theirs, context, server_side=True)
    number = served.fileno()
    lines = served.makefile("rb")  # before the handshake, as servers do
    client = Endpoint(lambda: python.wrap_socket(ours, server_hostname=HOST))
    served.do_handshake()
    served.do_handshake()  # done is done
    assert served.fileno() == number
    assert os.get_inheritable(number)
    with client.result() as peer, served:
        peer.sendall(b"line\nanother\n")
        assert lines.readline() == b"line\n"
        assert lines.readline() == b"another\n"
        peer.sendall(b"abcdefg")
        assert served.recv(1) == b"a"
        assert served.read(1) == b"b"
        buffer = bytearray(2)
        assert served.recv_into(buffer) == served.read(2, bytearray(9)) == 2
        assert buffer == b"cd"
        assert served.recv() == b"g"
        served.sendall(b"1")
        assert served.send(b"2") == served.write(b"3") == 1
        (tmp_path / "file").write_bytes(b"file" * 1000)
        with (tmp_path / "file").open("rb") as file:
            assert served.sendfile(file) == 4000
        assert recv_exactly(peer, 4003) == b"123" + b"file" * 1000
        assert served.getpeername() == peer.getsockname()
        assert served.getsockname() == peer.getpeername()
        served.close()
        peer.sendall(b"late")
        assert lines.read(4) == b"late"  # the file made from the socket is still open
        lines.close()
        assert peer.recv(9) == b""


def _go_on(send: Callable[[bytes], int]) -> NoReturn:
    while True:  # the kernel may find more room
        send(bytes(2**14))


@pytest.mark.each_kernel
@both
def test_no_waiting_for_data(
    lab: Lab, context: Fixed, python: ssl.SSLContext, policy: KtlsPolicy
) -> None:
    """A non-blocking socket says what it wants, as `ssl` does."""
    with _connected(lab, context, python, policy) as (served, peer):
        served.settimeout(None)
        with pytest.raises(BlockingIOError):
            served.recv(9, socket.MSG_DONTWAIT)
        served.settimeout(0)
        for receive in (served.recv, served.read, lambda n: served.recv_into(bytearray(n))):
            with pytest.raises(ssl.SSLWantReadError):
                receive(9)
        peer.sendall(b"hello")
        select.select([served], [], [], 60)
        assert served.recv(9) == b"hello"
        with pytest.raises(ssl.SSLWantWriteError):
            served.sendall(bytes(2**26))
        for send in (served.send, served.write):
            with pytest.raises(ssl.SSLWantWriteError):
                _go_on(send)


@pytest.mark.each_kernel
@both
def test_functions_of_loops(
    lab: Lab, context: Fixed, python: ssl.SSLContext, policy: KtlsPolicy
) -> None:
    """A non-blocking socket works with asyncio's functions for sockets, on any loop."""

    async def work(served: SSLSocket, peer: ssl.SSLSocket) -> None:
        loop = asyncio.get_running_loop()
        receiving = asyncio.create_task(loop.sock_recv(served, 9))
        await asyncio.sleep(0)  # it has tried once
        peer.sendall(b"hello")
        assert await receiving == b"hello"
        sending = asyncio.create_task(loop.sock_sendall(served, bytes(2**24)))
        assert len(await asyncio.to_thread(recv_exactly, peer, 2**24)) == 2**24
        await sending

    with _connected(lab, context, python, policy) as (served, peer):
        served.settimeout(0)
        asyncio.run(work(served, peer))


@both
def test_arguments(lab: Lab, context: Fixed, python: ssl.SSLContext, policy: KtlsPolicy) -> None:
    """They have the names, and the limits, that they have with `ssl`."""
    with _connected(lab, context, python, policy) as (served, peer):
        served.send(data=b"a")
        served.sendall(data=b"b")
        assert recv_exactly(peer, 2) == b"ab"
        peer.sendall(b"abc")
        assert served.recv(buflen=1) == b"a"
        with pytest.raises(ValueError, match="negative"):
            served.recv(-1)
        with pytest.raises(ValueError, match="negative"):
            served.recv_into(bytearray(9), -1)
        served.settimeout(timeout := 60)
        bad: tuple[tuple[Any, type[Exception]], ...] = (
            (-1, ValueError),
            (1e12, OverflowError),
            ("1", TypeError),
        )
        for value, error in bad:
            with pytest.raises(error):
                served.settimeout(value)
        assert served.gettimeout() == served.timeout == timeout
        served.close()
        for call in (served.getpeername, served.do_handshake, lambda: served.recv(1)):
            with pytest.raises(OSError, match="Bad file descriptor"):
                call()


@both
def test_questions(lab: Lab, context: Fixed, python: ssl.SSLContext, policy: KtlsPolicy) -> None:
    """They are answered as `ssl` does."""
    with _connected(lab, context, python, policy) as (served, peer):
        assert served.version() == peer.version()
        assert served.cipher() == peer.cipher()
        assert served.selected_alpn_protocol() is None
        assert served.getpeercert() is None
        assert served.getpeercert(binary_form=True) is None
        assert served.server_hostname == HOST
        assert served.session is None
        assert served.session_reused is False
        assert served.pending() == 0
        assert served.ktls == ("policy-off" if policy is RELAY else "kernel")
        assert served.context is context
        for answer in (served.compression, served.selected_npn_protocol, served.shared_ciphers):
            assert answer() is None
        for refused in ("sendto", "recvfrom", "sendmsg", "recvmsg", "recvmsg_into"):
            with pytest.raises(NotImplementedError):
                getattr(served, refused)()
        with pytest.raises(NotImplementedError):
            served.verify_client_post_handshake()
        with pytest.raises(ValueError, match="channel binding"):
            served.get_channel_binding()


@pytest.mark.parametrize("need", ["recv", "recv_into", "version", "getpeercert"])
def test_first_need(listener: SSLSocket, python: ssl.SSLContext, need: str) -> None:
    """Accepting waits for no handshake; whatever needs it does it."""

    def client() -> bytes:
        with (
            socket.create_connection(listener.getsockname(), timeout=60) as sock,
            python.wrap_socket(sock, server_hostname=HOST) as peer,
        ):
            peer.sendall(b"x")
            return peer.recv(9)

    running = Endpoint(client)
    served, address = listener.accept()
    calls: dict[str, Any] = {
        "recv": lambda: served.recv(1),
        "recv_into": lambda: served.recv_into(bytearray(1)),
        "version": served.version,
        "getpeercert": served.getpeercert,
    }
    with served:
        assert served.getpeername() == address
        assert served.getsockname() == listener.getsockname()
        assert "raddr" in repr(served)
        served.settimeout(60)
        calls[need]()
        served.sendall(b"y")
        assert running.result() == b"y"


@pytest.mark.parametrize("need", ["send", "sendall", "sendfile", "write"])
def test_nothing_is_sent_in_clear(
    listener: SSLSocket, python: ssl.SSLContext, need: str, tmp_path: Path
) -> None:
    """Who sends before the handshake has it done; and where it fails nothing is sent."""
    (tmp_path / "file").write_bytes(b"secret")
    for is_tls in (True, False):

        def client(*, is_tls: bool = is_tls) -> bytes:
            with socket.create_connection(listener.getsockname(), timeout=60) as sock:
                if not is_tls:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return recv_exactly(sock, 100)
                with python.wrap_socket(sock, server_hostname=HOST) as peer:
                    return recv_exactly(peer, 6)

        running = Endpoint(client)
        served, _ = listener.accept()
        with served, (tmp_path / "file").open("rb") as file:
            served.settimeout(60)
            argument = file if need == "sendfile" else b"secret"
            if is_tls:
                getattr(served, need)(argument)
                assert running.result() == b"secret"
                continue
            for _ in range(2):
                with pytest.raises(ssl.SSLError):
                    getattr(served, need)(argument)
            # An alert, in clear as it has to be, and the end.
            assert running.result()[0] == 21
            served.settimeout(None)  # it is still a socket to whoever has it
            assert served.fileno() >= 0


@pytest.mark.parametrize("ending", ["garbage", "close", "reset", "stall"])
def test_bad_clients(listener: SSLSocket, ending: str) -> None:
    """Each gives an OSError, once and again; nothing is left behind."""
    before = descriptors()
    with socket.create_connection(listener.getsockname()) as sock:
        served, _ = listener.accept()
        served.settimeout(0.05 if ending == "stall" else 20)
        expected: type[OSError] = ssl.SSLError
        if ending == "garbage":
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            sock.shutdown(socket.SHUT_WR)
        elif ending == "close":
            sock.shutdown(socket.SHUT_WR)
            expected = ssl.SSLEOFError
        elif ending == "reset":
            reset(sock)
            expected = OSError
        else:
            expected = TimeoutError
        with served:
            for _ in range(2):
                with pytest.raises(expected):
                    served.do_handshake()
            with pytest.raises(OSError, match=r"."):
                served.recv(9)
            with contextlib.suppress(OSError):
                served.shutdown(socket.SHUT_RDWR)
    check_descriptors(before)


def test_no_waiting(listener: SSLSocket) -> None:
    """A non-blocking handshake is refused, and can be done later."""
    with socket.create_connection(listener.getsockname()):
        served, _ = listener.accept()
        with served:
            served.settimeout(0)
            with pytest.raises(ValueError, match="may wait"):
                served.do_handshake()


def test_threads(lab: Lab, context: Fixed, python: ssl.SSLContext) -> None:
    """Two that need the handshake at once get the same one."""
    ours, theirs = lab.tcp()
    with SSLSocket(theirs, context, server_side=True) as served:
        receiving = Endpoint(lambda: served.recv(1))
        sending = Endpoint(lambda: served.send(b"x"))
        with python.wrap_socket(ours, server_hostname=HOST) as peer:
            peer.sendall(b"y")
            assert peer.recv(1) == b"x"
            assert sending.result() == 1
            assert receiving.result() == b"y"


@pytest.mark.each_kernel
@both
@pytest.mark.parametrize("suppress", [True, False])
def test_ragged_end(lab: Lab, context: Fixed, policy: KtlsPolicy, *, suppress: bool) -> None:
    """A FIN without close_notify is an end or an error."""
    context.policy = policy
    ours, theirs = lab.tcp()
    with (
        SSLSocket(theirs, context, server_side=True, suppress_ragged_eofs=suppress) as served,
        contextlib.ExitStack() as stack,
    ):
        client = SSLSocket(ours, context, server_side=False, server_hostname=HOST)
        running = Endpoint(client.do_handshake)
        served.do_handshake()
        running.result()
        network = stack.enter_context(_network(client))
        network.shutdown(socket.SHUT_WR)
        if suppress:
            assert served.recv(9) == b""
        else:
            with pytest.raises(ssl.SSLEOFError):
                served.recv(9)
            with pytest.raises(ssl.SSLEOFError):
                served.unwrap()
        client.close()


@contextlib.contextmanager
def _network(client: SSLSocket) -> Iterator[socket.socket]:
    """Return the connection below a client, past TLS."""
    relay = client.handoff.relay
    below: Any = client if relay is None else relay.network
    with socket.socket(fileno=os.dup(below.fileno())) as sock:
        yield sock


@both
def test_client(context: Fixed, policy: KtlsPolicy) -> None:
    """One that connects does its handshake then, if it is to; unwrap ends both directions."""
    context.policy = policy
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> bytes:
            sock, _ = listener.accept()
            with SSLSocket(sock, context, server_side=True) as served:
                data = served.recv(9)
                served.sendall(data)
                assert served.recv(9) == b""
                return data

        for connect in ("connect", "connect_ex"):
            running = Endpoint(serve)
            with SSLSocket(
                socket.socket(), context, server_side=False, server_hostname=HOST
            ) as client:
                client.do_handshake_on_connect = True
                with pytest.raises(OSError, match=r"."):
                    client.getpeername()
                getattr(client, connect)(listener.getsockname())
                assert client._facts is not None
                client.sendall(b"data")
                assert client.recv(9) == b"data"
                client.unwrap()
                assert running.result() == b"data"


def test_nobody_there(context: Fixed) -> None:
    """A connection that fails has no handshake."""
    address = ("127.0.0.1", free_port())
    with SSLSocket(socket.socket(), context, server_side=False, server_hostname=HOST) as client:
        assert client.connect_ex(address) != 0
        client.do_handshake_on_connect = True
        with pytest.raises(ConnectionRefusedError):
            client.connect(address)


# `ssl` answers each of these with None where there is no connection yet.
_QUESTIONS = ("version", "cipher", "group", "selected_alpn_protocol", "compression")
_CALLS: tuple[Callable[[SSLSocket], object], ...] = (
    lambda sock: sock.recv(1),
    lambda sock: sock.send(b"x"),
    lambda sock: sock.getpeercert(),
    lambda sock: sock.do_handshake(),
    lambda sock: sock.unwrap(),
)


def _ask_too_early(sock: SSLSocket) -> None:
    assert [getattr(sock, name)() for name in _QUESTIONS] == [None] * len(_QUESTIONS)
    assert (sock.ktls, sock.session_reused) == (None, False)
    for call in _CALLS:
        with pytest.raises(OSError, match=r"not connected") as raised:
            call(sock)
        assert raised.value.errno == errno.ENOTCONN


def test_asked_too_early(listener: SSLSocket, context: Fixed) -> None:
    """A socket that listens, or has no peer yet, is none the worse for it."""
    _ask_too_early(listener)
    with SSLSocket(socket.socket(), context, server_side=False, server_hostname=HOST) as client:
        _ask_too_early(client)
        client.connect(listener.getsockname())
        served, _ = listener.accept()
        with served:
            running = Endpoint(lambda: served.sendall(b"hello"))
            assert recv_exactly(client, 5) == b"hello"
            running.result()


@both
def test_closed_while_a_file_is_open(lab: Lab, context: Fixed, policy: KtlsPolicy) -> None:
    """A handshake that the file needs does not open the socket anew."""
    context.policy = policy
    ours, theirs = lab.tcp()
    client = SSLSocket(ours, context, server_side=False, server_hostname=HOST)
    running = Endpoint(lambda: client.sendall(b"line\n"))
    served = SSLSocket(theirs, context, server_side=True)
    lines = served.makefile("rb")
    served.close()
    assert lines.readline() == b"line\n"
    running.result()
    lines.close()
    assert served.fileno() == -1
    with client:
        assert client.recv(1) == b""


@pytest.mark.parametrize("server_side", [False, True])
def test_interrupted_handshake(lab: Lab, context: Fixed, *, server_side: bool) -> None:
    """It does not begin anew, neither in the signal handler nor after it: one hello goes out."""
    ours, theirs = lab.tcp()
    sock = SSLSocket(ours, context, server_side=server_side, server_hostname=HOST)

    def handle(*_: object) -> NoReturn:
        for call in (lambda: sock.recv(1), lambda: sock.send(b"x"), sock.do_handshake):
            with pytest.raises(ConnectionAbortedError, match="interrupted"):
                call()
        raise KeyboardInterrupt

    def interrupt() -> None:
        if server_side:
            theirs.sendall(b"\x16\x03\x01")
            until(lambda: not queued(sock))
        else:
            assert theirs.recv(1, socket.MSG_PEEK)
        signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, handle)
    interrupting = Endpoint(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            sock.do_handshake()
    finally:
        interrupting.result()
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ConnectionAbortedError, match="interrupted"):
        sock.do_handshake()
    with sock:
        said = b"".join(iter(lambda: theirs.recv(2**16), b""))
    assert len(split_records(said)) == (0 if server_side else 1)


def test_concurrent_stall(listener: SSLSocket, python: ssl.SSLContext) -> None:
    """Who stalls in the handshake keeps its own thread waiting, and nobody else."""

    def serve(served: SSLSocket) -> None:
        served.settimeout(60)
        with served, contextlib.suppress(OSError):
            served.sendall(b"hello")

    with socket.create_connection(listener.getsockname()):
        stalled, _ = listener.accept()
        waiting = Endpoint(lambda: serve(stalled))
        sock = socket.create_connection(listener.getsockname(), timeout=60)
        served, _ = listener.accept()
        running = Endpoint(lambda: serve(served))
        with python.wrap_socket(sock, server_hostname=HOST) as peer:
            assert recv_exactly(peer, 5) == b"hello"
        running.result()
        assert not waiting.done
    waiting.result()


@both
def test_handshake_done_elsewhere(lab: Lab, context: Fixed, policy: KtlsPolicy) -> None:
    """Its connection is taken over as it is, by a process that has no descriptor left."""
    client, server = lab.pair(policy)
    number = server.sock.fileno()
    with no_descriptors():
        sock = SSLSocket.established(server, context)
    assert sock.fileno() == number
    client.sock.sendall(b"hello")
    assert sock.recv(9) == b"hello"
    assert sock.facts.version() == "TLSv1.3"
