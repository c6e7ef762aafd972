"""Tests of calls: what a program does, and what its clients see."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests import doubles
from tests.ports import free_port
from tests.wrap.wrapped import CARRIERS, ECHO_TWICE, RELAY, Wrapped, needs_seccomp
from tlsify.wrap import copies
from tlsify.wrap.calls import Calls
from tlsify.wrap.descriptor import Descriptor
from tlsify.wrap.holders import Hold
from tlsify.wrap.numbers import Numbers
from tlsify.wrap.ports import Ports

if TYPE_CHECKING:
    from tests.cli.conftest import Pki
    from tests.doubles import Lab

pytestmark = needs_seccomp


@CARRIERS
def test_blocking_program(pki: Pki, carrier: str) -> None:
    """It accepts, reads and writes: its client speaks TLS, and sees a clean end."""
    with Wrapped(pki, carrier, ECHO_TWICE) as program:
        for _ in range(2):
            program.ask()
        assert program.end() == 0


def test_refused_calls(pki: Pki) -> None:
    """What cannot be served fails, and what is no TCP, or no socket, is the kernel's affair."""
    source = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    return 0 if libc.syscall(*arguments) >= 0 else ctypes.get_errno()
listener = listen()
bound = socket.socket()
bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo") if os.geteuid() == 0 else None
bound.bind(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0tlsify-test-%d" % os.getpid())
pipe, write = os.pipe()
os.write(write, b"data")
high, (_, into) = os.dup2(pipe, 300), os.pipe()
print([
    call(50, bound.fileno(), 1),
    call(288, listener.fileno(), 0, 0, 1),
    call(50, unix.fileno(), 1),
    call(50, pipe, 1), call(50, 999, 1), call(43, pipe, 0, 0),
    call(425, 1, 0), call(3, 999), call(275, 999, 0, 1, 0, 1, 0),
    call(275, high, 0, into, 0, 4, 0), call(50, bound.fileno(), 1),
], flush=True)
peer = socket.socket(socket.AF_UNIX)
peer.connect(unix.getsockname())
unix.accept()
"""
    with Wrapped(pki, RELAY, source) as program:
        denied = errno.EACCES if os.geteuid() == 0 else 0
        expected = [denied, errno.EINVAL, 0, errno.ENOTSOCK, errno.EBADF, errno.ENOTSOCK]
        expected += [errno.ENOSYS, errno.EBADF, errno.EBADF, 0, denied]
        assert program.line() == f"{expected}\n"
        assert program.end() == 0
        assert program.said().count("bound to a network device") == (denied != 0)


def test_plain_port(pki: Pki) -> None:
    """A port that is named stays as the program has it."""
    port = free_port()
    source = ECHO_TWICE.replace("listen()", f"listen(port={port})")
    with Wrapped(pki, RELAY, source, "--plain-port", str(port)) as program:
        for _ in range(2):
            with socket.create_connection(program.server) as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"
        assert program.end() == 0
        assert program.said().count(f"no TLS on 127.0.0.1:{port}: --plain-port names it") == 1


_ENDINGS = {
    "close": ("sock.close()", True),
    "exit": ("os._exit(0)", True),
    "failure": ("os._exit(1)", False),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", False),
    "reset": ("reset(); sock.close()", False),
    "reset at an exit": ("reset(); os._exit(0)", False),
    "reset by another call": ("reset(); os.dup2(0, sock.fileno())", False),
    "exec": ('os.execv("/bin/true", ["true"])', True),
    "child": ("child(); os._exit(0)", True),
    "killed child": ("child(); os.kill(os.getpid(), signal.SIGKILL)", False),
    "child by another number": ("child(number=0); os._exit(0)", True),
}


@CARRIERS
def test_ends(pki: Pki, carrier: str) -> None:
    """A connection that is closed, or left by an orderly exit, ends cleanly; no other does."""
    endings = {kind: ending for kind, (ending, _) in _ENDINGS.items()}
    source = f"""
def reset():
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1,)) + bytes(7))
def child(number=None):
    if os.fork():
        sock.close()
        os.wait()
        os._exit(0)
    if number is not None:
        os.dup2(sock.fileno(), number)
        sock.close()
    os.read(sock.fileno() if number is None else number, 1)
listener = listen()
for _ in range({len(endings)}):
    sock, _ = listener.accept()
    if os.fork():
        sock.close()
        continue
    kind = sock.recv(100).decode()
    sock.sendall(b"data")
    exec({endings}[kind])
    os._exit(0)
for _ in range({len(endings)}):
    os.wait()
"""
    with Wrapped(pki, carrier, source) as program:
        found = {}
        for kind in _ENDINGS:
            with program.connect() as client:
                client.sendall(kind.encode())
                assert client.recv(4) == b"data"
                if "child" in kind:
                    client.sendall(b"x")
                try:
                    found[kind] = client.recv(1) == b""
                except (ssl.SSLEOFError, ConnectionError):
                    found[kind] = False
        assert found == {kind: clean for kind, (_, clean) in _ENDINGS.items()}
        assert program.end() == 0


@CARRIERS
def test_killed_supervisor(pki: Pki, carrier: str) -> None:
    """The program ends with it: nothing would answer its calls. Its clients see truncation."""
    source = """
listener = listen()
sock, _ = listener.accept()
sock.sendall(b"data")
print(os.getpid(), flush=True)
listener.accept()
"""
    with Wrapped(pki, carrier, source) as program, program.connect() as client:
        pid = int(program.line())
        assert client.recv(4) == b"data"
        pidfd = os.pidfd_open(pid)
        program.signal(signal.SIGKILL)
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            client.recv(1)


@CARRIERS
def test_end_that_cannot_be_looked_at(pki: Pki, carrier: str) -> None:
    """Without any descriptor for looks an exit is what it was, and a killed process is, too."""
    source = """
import resource
def leave(action):
    sock, _ = listener.accept()
    sock.sendall(b"data")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, hard))
    action()
listener = listen()
if KILLED:
    leave(lambda: os.kill(os.getpid(), signal.SIGKILL))
leave(lambda: os._exit(0))
"""
    for killed in (False, True):
        with Wrapped(pki, carrier, source.replace("KILLED", str(killed))) as program:
            with program.connect() as client:
                assert client.recv(4) == b"data"
                if killed:
                    with pytest.raises((ssl.SSLEOFError, ConnectionError)):
                        client.recv(1)
                else:
                    assert client.recv(1) == b""
            assert program.end() == (137 if killed else 0)


def test_process_that_has_ended_meanwhile(lab: Lab) -> None:
    """A process that had a connection may be gone before it is watched; others go on with it."""

    async def work() -> None:
        _, handed = lab.pair(doubles.RELAY)
        unused = cast("Any", None)
        calls = Calls(unused, Numbers.of_this_process(), unused, Ports())
        number = handed.sock.fileno()
        descriptor = Descriptor(handed, unused, Hold(os.getpid(), number))
        descriptor.held_in.add(2**22 + 1)
        calls._delivered(descriptor)
        assert descriptor.held_in == {os.getpid()}
        for pid in list(calls._pidfds):
            calls._has_ended(pid)

    asyncio.run(work())


def test_number_of_another_connection_elsewhere(pki: Pki) -> None:
    """A duplicate whose number is a connection in another process keeps its own one open."""
    source = """
listener = listen()
told, tell = os.pipe()
if os.fork() == 0:
    sock, _ = listener.accept()
    os.write(tell, b"%d" % sock.fileno())
    sock.recv(1)
    os._exit(0)
number = int(os.read(told, 9))
sock, _ = listener.accept()
os.dup2(sock.fileno(), number)
sock.close()
print("closed", flush=True)
listener.accept()
os.write(number, b"ok")
os._exit(0)
"""
    with Wrapped(pki, RELAY, source) as program, program.connect(), program.connect() as client:
        assert program.line() == "closed\n"
        with program.connect():
            assert client.recv(2) == b"ok"


@CARRIERS
def test_connection_on_its_way(pki: Pki, carrier: str) -> None:
    """One that is sent to another process stays open, although its sender closes it."""
    source = """
listener = listen()
ours, theirs = socket.socketpair()
told, tell = os.pipe()
if os.fork() == 0:
    os.read(told, 1)
    sock = socket.socket(fileno=socket.recv_fds(theirs, 1, 1)[1][0])
    sock.sendall(b"ok")
    os._exit(0)
sock, _ = listener.accept()
socket.send_fds(ours, [b"."], [sock.fileno()])
sock.close()
print("closed", flush=True)
listener.accept()
os.write(tell, b"!")
os.wait()
os._exit(0)
"""
    with Wrapped(pki, carrier, source) as program:
        with program.connect() as client:
            assert program.line() == "closed\n"
            with program.connect():
                assert [client.recv(2), client.recv(1)] == [b"ok", b""]
        assert program.end() == 0


@CARRIERS
def test_connection_that_has_arrived(
    pki: Pki, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another process has received is that process's, whatever its sender does."""
    monkeypatch.setattr(copies, "_MOMENT", 0.0)
    source = """
listener = listen()
ours, theirs = socket.socketpair()
if os.fork() == 0:
    for _ in range(3):
        sock = socket.socket(fileno=socket.recv_fds(theirs, 1, 1)[1][0])
        theirs.send(b"!")
        sock.sendall(sock.recv(9))
        sock.close()
    os._exit(0)
for _ in range(3):
    sock, _ = listener.accept()
    socket.send_fds(ours, [b"."], [sock.fileno()])
    ours.recv(1)
    sock.close()
    print("closed", flush=True)
os.wait()
os._exit(0)
"""
    with Wrapped(pki, carrier, source) as program:
        for _ in range(3):
            with program.connect() as client:
                assert program.line() == "closed\n"
                client.sendall(b"ok")
                assert [client.recv(2), client.recv(1)] == [b"ok", b""]
        assert program.end() == 0
