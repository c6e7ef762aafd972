"""Tests of door: clients on their way in to programs of several kinds."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import ssl
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import until
from tests.wrap.wrapped import (
    CARRIERS,
    ECHO_TWICE,
    RELAY,
    SERVE,
    Wrapped,
    needs_seccomp,
    read_all,
)
from tlsify.wrap.descriptor import Descriptor

if TYPE_CHECKING:
    from tests.cli.conftest import Pki

pytestmark = needs_seccomp


def _is_refused(program: Wrapped) -> bool:
    with socket.socket() as client:
        return client.connect_ex(program.server) == errno.ECONNREFUSED


def test_epoll_before_listen(pki: Pki) -> None:
    """A program with an event loop is woken up once for each client, and finds no other."""
    source = (
        SERVE
        + """
import select
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.setblocking(False)
poll = select.epoll()
poll.register(listener, select.EPOLLIN | select.EPOLLET)
listener.listen(1)
listener.listen(1)
print(listener.getsockname()[1], flush=True)
served = 0
while served < 8:
    poll.poll()
    while True:
        try:
            sock, name = listener.accept()
        except BlockingIOError:
            break
        sock.setblocking(True)
        serve(sock, name)
        served += 1
"""
    )
    with Wrapped(pki, RELAY, source) as program, ExitStack() as stack:
        clients = [stack.enter_context(program.connect()) for _ in range(8)]
        for client in clients:
            client.sendall(b"x")
        assert all(read_all(client).startswith(b"x from 127") for client in clients)
        assert program.end() == 0


def test_nothing_is_left_to_accept(pki: Pki) -> None:
    """A program that has its client is not woken up for it again."""
    source = """
import select
listener = listen()
poll = select.poll()
poll.register(listener, select.POLLIN)
for _ in range(4):
    poll.poll()
    sock, _ = listener.accept()
    sock.sendall(b"%d" % len(poll.poll(0)))
    sock.close()
"""
    with Wrapped(pki, RELAY, source) as program:
        for _ in range(4):
            with program.connect() as client:
                assert read_all(client) == b"0"
        assert program.end() == 0


def test_threads_and_signals(pki: Pki) -> None:
    """Several threads accept, and signals interrupt them: no client is lost."""
    source = (
        SERVE
        + """
import threading
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)
listener = listen()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
def work():
    for _ in range(4):
        serve(*listener.accept())
threads = [threading.Thread(target=work) for _ in range(2)]
for each in threads: each.start()
work()
for each in threads: each.join()
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    )
    with Wrapped(pki, RELAY, source) as program:
        for _ in range(12):
            program.ask()
        assert program.end() == 0


def test_workers_with_sockets_of_their_own(pki: Pki) -> None:
    """Each worker listens (SO_REUSEPORT), and gets its share of the clients."""
    source = """
first = socket.socket()
first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
first.bind(("127.0.0.1", 0))
first.listen()
second = socket.socket()
second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
second.bind(first.getsockname())
second.listen()
other = os.fork()
print(first.getsockname()[1], flush=True) if other else None
for _ in range(3):
    sock, _ = (first if other else second).accept()
    sock.sendall(b"first" if other else b"second")
    sock.close()
os._exit(0) if not other else os.wait()
"""
    with Wrapped(pki, RELAY, source) as program:
        found = []
        for _ in range(6):
            with program.connect() as client:
                found.append(read_all(client))
        assert sorted(found) == [b"first"] * 3 + [b"second"] * 3
        assert program.end() == 0


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(pki: Pki, host: str) -> None:
    """Clients of both families get to a socket that is for both."""
    source = ECHO_TWICE.replace("listen()", f'listen("{host}")')
    with Wrapped(pki, RELAY, source) as program:
        program.ask("::1")
        program.ask("127.0.0.1" if host == "::" else "::1")
        assert program.end() == 0


def test_closed_listener(pki: Pki) -> None:
    """The program closes its socket, and listens at the same address anew, and then no more."""
    source = (
        SERVE
        + """
listener = listen()
serve(*listener.accept())
port = listener.getsockname()[1]
listener.close()
listener = listen(port=port)
serve(*listener.accept())
listener.close()
signal.pause()
"""
    )
    with Wrapped(pki, RELAY, source) as program:
        program.ask()
        assert program.line() == f"{program.port}\n"
        program.ask()
        until(lambda: _is_refused(program))
        program.ask_to_end()
        assert program.end() == 128 + signal.SIGTERM


@CARRIERS
def test_ends_behind_a_shut_door(pki: Pki, carrier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program leaves open ends in order although it has closed its listener before.

    That may take a while: a key that is being changed comes first.
    """
    say_goodbye = Descriptor.say_goodbye

    async def later(descriptor: Descriptor) -> None:
        await asyncio.sleep(0.02)
        await say_goodbye(descriptor)

    monkeypatch.setattr(Descriptor, "say_goodbye", later)
    source = """
listener = listen()
sock, _ = listener.accept()
listener.close()
socket.socket().bind(("127.0.0.1", 0))  # where closed listeners are looked for
sock.sendall(b"last words")
os._exit(0)
"""
    with Wrapped(pki, carrier, source) as program, program.connect() as client:
        assert read_all(client) == b"last words"


@CARRIERS
def test_handshake_behind_a_shut_door(pki: Pki, carrier: str) -> None:
    """Nobody is left to serve a client whose handshake ends when the program listens no more."""
    source = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
listener = listen()
signal.sigwait({signal.SIGUSR1})
listener.close()
socket.socket().bind(("127.0.0.1", 0))  # where closed listeners are looked for
print("closed", flush=True)
signal.pause()
"""
    with Wrapped(pki, carrier, source) as program, socket.create_connection(program.server) as sock:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = pki.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(2**16))
        program.signal(signal.SIGUSR1)
        assert program.line() == "closed\n"
        sock.sendall(outgoing.read())
        with suppress(ConnectionResetError):
            while data := sock.recv(2**16):
                incoming.write(data)
        with pytest.raises(ssl.SSLWantReadError):  # there is neither data nor an end of it
            client.read()
        program.ask_to_end()
        assert program.end() == 128 + signal.SIGTERM
        assert "bug" not in program.said()


def test_inherited_listener(pki: Pki) -> None:
    """A socket that listened before the program began is served as its own."""
    source = (
        SERVE
        + """
listener = socket.socket(fileno=NUMBER)
print(listener.getsockname()[1], flush=True)
serve(*listener.accept())
"""
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        with Wrapped(pki, RELAY, source.replace("NUMBER", str(listener.fileno()))) as program:
            listener.close()
            program.ask()
            assert program.end() == 0


def test_no_more_descriptors(pki: Pki) -> None:
    """The program may have no more: accept says so, and has the client when there is room."""
    source = (
        SERVE
        + """
import resource
listener = listen()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
try:
    listener.accept()
except OSError as exc:
    print(exc.errno, flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
serve(*listener.accept())
"""
    )
    with Wrapped(pki, RELAY, source) as program:
        program.ask()
        assert program.line() == f"{errno.EMFILE}\n"
        assert program.end() == 0


def test_listener_that_is_shut_down(pki: Pki) -> None:
    """Threads that wait in accept hear of it; the socket may listen anew."""
    source = (
        SERVE
        + """
import threading
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
listener = listen()
def work():
    try:
        while True:
            serve(*listener.accept())
    except OSError as exc:
        print(exc.errno, flush=True)
thread = threading.Thread(target=work)
thread.start()
signal.sigwait({signal.SIGUSR1})
listener.shutdown(socket.SHUT_RDWR)
thread.join()
listener.listen()
print("anew", flush=True)
serve(*listener.accept())
"""
    )
    with Wrapped(pki, RELAY, source) as program:
        program.ask()
        program.signal(signal.SIGUSR1)
        assert [program.line(), program.line()] == [f"{errno.EINVAL}\n", "anew\n"]
        program.ask()
        assert program.end() == 0


def test_client_at_the_socket_of_a_waiting_program(pki: Pki) -> None:
    """One that gets past the steering is let in, although the program does not look."""
    source = ECHO_TWICE.replace("range(2)", "range(3)")
    with Wrapped(pki, RELAY, source) as program:
        program.ask()
        with socket.socket() as sock:
            sock.settimeout(60)
            sock.bind(("127.99.88.0", 0))
            sock.connect(program.server)
            with pki.client_context().wrap_socket(sock, server_hostname="localhost") as client:
                client.sendall(b"hello")
                assert read_all(client).startswith(b"hello from 127.99.88.0")
        program.ask()
        assert program.end() == 0


def test_lowered_limit(pki: Pki) -> None:
    """A program that allows itself less is given numbers that it may have, at once."""
    source = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
print(listen().accept()[0].fileno(), flush=True)
"""
    with Wrapped(pki, RELAY, source) as program, program.connect():
        assert program.line() == "511\n"
