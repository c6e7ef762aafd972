"""Tests of forks: connections that several processes hold."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.doubles import CLOSE_NOTIFY, OFFLOADS, RELAY, Lab, RawPeer, until
from tlsify.connection.ending import forks
from tlsify.connection.ending.forks import Share, inode, is_held_elsewhere, is_left_to_others
from tlsify.connection.ending.patience import unacknowledged
from tlsify.connection.establish import accept
from tlsify.connection.stream import TLSSocket
from tlsify.errors import Truncated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import KtlsPolicy

both = pytest.mark.parametrize("policy", OFFLOADS)
pytestmark = pytest.mark.each_kernel


def _fork(work: Callable[[], object]) -> int:
    """Do something in a child, which ends as such children do: at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # it must not go on as this test
        traceback.print_exc()
    finally:
        os._exit(status)


def _until_closed(reader: int, writer: int) -> Callable[[], object]:
    """Return what waits until the other process has closed its end of a pipe."""

    def wait() -> None:
        os.close(writer)
        os.read(reader, 1)

    return wait


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _ended_in_order(peer: RawPeer) -> None:
    assert peer.recv() == CLOSE_NOTIFY
    assert peer.recv() is None


@both
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("way", ["close", "abort", "__del__"])
def test_accept_fork_close(lab: Lab, policy: KtlsPolicy, way: str) -> None:
    """The oldest server there is: the parent's copy is closed, and the child's end is the end."""
    handed, peer = lab.server(policy)
    stream = TLSSocket(handed)
    reader, writer = os.pipe()

    def serve() -> None:
        os.read(reader, 1)
        assert stream.recv(9) == b"question"
        stream.sendall(b"answer")
        stream.close()

    child = _fork(serve)
    peer.send_data(b"question")
    getattr(stream, way)()
    os.write(writer, b".")
    assert peer.recv_data(6) == b"answer"
    _ended_in_order(peer)
    assert _status(child) == 0
    for end in (reader, writer):
        os.close(end)


@both
def test_child_that_merely_closes(lab: Lab, policy: KtlsPolicy) -> None:
    """The parent goes on."""
    stream, peer = lab.stream(policy)
    stream.sendall(b"one")
    assert _status(_fork(stream.close)) == 0
    stream.sendall(b"two")
    peer.send_data(b"back")
    assert peer.recv_data(6) == b"onetwo"
    assert stream.recv(9) == b"back"
    stream.close()
    _ended_in_order(peer)


@both
def test_whoever_is_last(lab: Lab, policy: KtlsPolicy) -> None:
    """A parent that has not used it since ends it, if no child has it any more."""
    stream, peer = lab.stream(policy)
    stream.sendall(b"one")
    assert _status(_fork(lambda: None)) == 0
    stream.close()
    assert peer.recv_data(3) == b"one"
    _ended_in_order(peer)


@both
@pytest.mark.parametrize("in_order", [True, False], ids=["closed", "aborted"])
def test_end_while_another_has_it(lab: Lab, policy: KtlsPolicy, *, in_order: bool) -> None:
    """Who serves it ends it, though the parent, which does not, has its copy for good.

    It does also where nothing is left to be delivered.
    """
    stream, peer = lab.stream(policy)

    def serve() -> None:
        stream.sendall(b"from the child")
        until(lambda: not unacknowledged(stream))
        if in_order:
            stream.close()
        else:
            stream.abort()

    assert _status(_fork(serve)) == 0
    assert peer.recv_data(14) == b"from the child"
    if in_order:
        _ended_in_order(peer)
    else:
        assert peer.recv() is None
    stream.abort()


@both
def test_handshake_in_the_child(lab: Lab, policy: KtlsPolicy) -> None:
    """What it has sent arrives, though it ends without waiting for any thread."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()

    def serve() -> None:
        with TLSSocket(accept(theirs, server, policy)) as stream:
            stream.sendall(bytes(300_000))

    child = _fork(serve)
    theirs.close()
    peer = RawPeer(ours, client)
    assert len(peer.recv_data(300_000)) == 300_000
    _ended_in_order(peer)
    assert _status(child) == 0


@both
@pytest.mark.parametrize("in_order", [True, False], ids=["closed", "cut"])
def test_child_is_told_how_it_ended(lab: Lab, policy: KtlsPolicy, *, in_order: bool) -> None:
    """Though the relay's thread is the parent's."""
    stream, peer = lab.stream(policy)

    def serve() -> None:
        assert stream.recv(9) == b"data"
        if in_order:
            assert stream.recv(9) == b""
        else:
            with pytest.raises(Exception, match="without close_notify"):
                stream.recv(9)

    child = _fork(serve)
    peer.send_data(b"data")
    if in_order:
        peer.close_notify()
    else:
        peer.sock.shutdown(socket.SHUT_WR)
    assert _status(child) == 0
    stream.close()


@both
def test_forking_server(lab: Lab, policy: KtlsPolicy) -> None:
    """`socketserver.ForkingMixIn`, the handshake in the parent."""
    client, config = lab.configs()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"answer to " + self.request.recv(100))

    class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
        def get_request(self) -> tuple[socket.socket, object]:
            sock, address = self.socket.accept()
            return TLSSocket(accept(sock, config, policy)), address

    with Server(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=[0.01])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            serving.start()
            for _ in range(3):
                peer = RawPeer(
                    socket.create_connection(("127.0.0.1", server.server_address[1])), client
                )
                peer.send_data(b"this")
                assert peer.recv_data(14) == b"answer to this"
                _ended_in_order(peer)
                peer.sock.close()
            server.shutdown()
            serving.join()


def test_held_elsewhere() -> None:
    """As long as somebody has it, and no longer."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with ours, theirs:
        assert not is_held_elsewhere(inode(ours))
        child = _fork(_until_closed(reader, writer))
        assert is_held_elsewhere(inode(ours))
        until(lambda: is_left_to_others(inode(ours)))
        os.close(writer)
        assert _status(child) == 0
        assert not is_held_elsewhere(inode(ours))
        until(lambda: not is_left_to_others(inode(ours)))
    os.close(reader)


@pytest.mark.parametrize("lacking", ["os.scandir", "os.listdir"])
def test_no_descriptor_to_look_with(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    """What cannot be found out is assumed: nobody's connection ends for want of a descriptor."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = _fork(lambda: os.read(ours.fileno(), 1))
        with monkeypatch.context() as want:
            want.setattr(lacking, refuse)
            assert is_held_elsewhere(inode(ours))
        theirs.send(b"x")
        assert _status(child) == 0


def test_share() -> None:
    """Who serves a connection is who has used it since the last fork."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        share = Share()
        assert share.is_last_or_serving(ours)
        reader, writer = os.pipe()
        child = _fork(_until_closed(reader, writer))
        assert share.is_shared
        assert not share.is_last_or_serving(ours)
        share.used = forks.seen
        assert share.is_last_or_serving(ours)
        os.close(writer)
        os.close(reader)
        assert _status(child) == 0


def test_short_lived() -> None:
    """A child knows the connections that it was born with, and those that it has opened."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not forks.is_short_lived(ours, is_client=True)

        def look() -> None:
            assert forks.is_short_lived(ours, is_client=False)
            with socket.socket() as own:
                assert not forks.is_short_lived(own, is_client=False)
                assert forks.is_short_lived(own, is_client=True)

        assert _status(_fork(look)) == 0


@pytest.mark.own_kernel
def test_forked_before() -> None:
    """A process knows that it was forked, whether tlsify was there or not; to exec ends that."""
    look = "from tlsify.connection.ending import forks; print(int(forks.is_child), flush=True)"
    program = f"""
import os, sys
{look}
if pid := os.fork():
    os.waitpid(pid, 0)
    sys.exit()
for name in [name for name in sys.modules if name.partition(".")[0] == "tlsify"]:
    del sys.modules[name]
{look}
os.execv(sys.executable, [sys.executable, "-c", {look!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)
    assert done.stdout.split() == [b"0", b"1", b"0"]


def send_until_it_fails(stream: socket.socket) -> None:
    """Send again and again."""
    while True:
        stream.sendall(bytes(1000))


@both
@pytest.mark.parametrize("at_once", [True, False], ids=["_exit", "killed"])
def test_parent_that_ends(lab: Lab, policy: KtlsPolicy, *, at_once: bool) -> None:
    """A relay ends with its process, which both sides see; the kernel's connection goes on."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    told, telling = os.pipe()

    def connect_and_leave() -> None:
        with contextlib.closing(theirs):
            stream = TLSSocket(accept(theirs, server, policy))
        parent, alive = os.pipe()
        if pid := os.fork():
            os.write(telling, b"%d\n" % pid)
            os.close(parent)
            if not at_once:
                os.kill(os.getpid(), signal.SIGKILL)
            return
        os.close(alive)
        os.read(parent, 1)  # until the parent has ended
        stream.settimeout(60)
        try:
            if policy is RELAY:
                with pytest.raises(ConnectionError):
                    send_until_it_fails(stream)  # its descriptors are closed one by one
                with pytest.raises(Truncated):
                    stream.recv(9)
                with pytest.raises(Truncated):
                    stream.handoff.service()
            else:
                stream.sendall(b"from the child")
                assert stream.recv(9) == b"answer"
            os.write(telling, b"good\n")
        except BaseException:  # it must not go on as this test
            traceback.print_exc()
        os._exit(0)

    child = _fork(connect_and_leave)
    theirs.close()
    os.close(telling)
    peer = RawPeer(ours, client)
    if policy is RELAY:
        assert peer.recv() is None  # no end in order
    else:
        assert peer.recv_data(14) == b"from the child"
        peer.send_data(b"answer")
    assert _status(child) == (0 if at_once else -signal.SIGKILL)
    with os.fdopen(told, "rb") as file:
        assert file.read().endswith(b"\ngood\n")
