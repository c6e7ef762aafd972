"""Tests of background."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.conftest import HOST
from tests.doubles import RELAY, Endpoint, backlog, check_descriptors, descriptors, until
from tests.want import Want
from tlsify.aio.loop_socket import LoopSocket
from tlsify.errors import ConfigError
from tlsify.integrations.background import Handshakes
from tlsify.metrics.counters import counters
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tests.doubles import Lab
    from tlsify.connection.handoff import Handoff
    from tlsify.credentials.key_pair import KeyPair


@pytest.fixture
def context(tmp_path: Path, key_pair: KeyPair) -> SSLContext:
    """A server's."""
    key = key_pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "both.pem").write_bytes(key_pair.certificate_pem() + key)
    return SSLContext.for_server(tmp_path / "both.pem", policy=RELAY)


@pytest.fixture
def handshakes(context: SSLContext) -> Iterator[Handshakes]:
    """Two at a time."""
    made = Handshakes(context, 2)
    yield made
    made.close()


@pytest.fixture
def python(authority: trustme.CA) -> ssl.SSLContext:
    """Python's own, of a client."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(made)
    return made


def test_side_by_side(lab: Lab, handshakes: Handshakes, python: ssl.SSLContext) -> None:
    """One that stalls keeps nobody waiting; who is keyed is given back."""
    done: queue.SimpleQueue[Handoff] = queue.SimpleQueue()
    handshakes.begin(lab.tcp()[1], done.put)
    for _ in range(2):
        ours, theirs = lab.tcp()
        handshakes.begin(theirs, done.put)
        with python.wrap_socket(ours, server_hostname=HOST) as peer:
            with LoopSocket(done.get(timeout=60)) as served:
                assert served.send(b"hello") == 5
            assert peer.recv(9) == b"hello"


def test_as_many_as_allowed(lab: Lab, handshakes: Handshakes, python: ssl.SSLContext) -> None:
    """Who comes when there are enough gets the place of the oldest that has stalled."""
    done: queue.SimpleQueue[Handoff] = queue.SimpleQueue()
    stalled = [lab.tcp() for _ in range(2)]
    for _, theirs in stalled:
        handshakes.begin(theirs, done.put)
    ours, theirs = lab.tcp()
    handshakes.begin(theirs, done.put)
    client = Endpoint(lambda: python.wrap_socket(ours, server_hostname=HOST))
    with client.result(), LoopSocket(done.get(timeout=60)):
        assert stalled[0][0].recv(9) == b""


def test_listening(
    context: SSLContext, python: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Silent clients have no more places than there are; want is waited out; an end is one."""
    before, failed = descriptors(), counters()["accept_failed"]
    done: queue.SimpleQueue[Handoff] = queue.SimpleQueue()
    made = Handshakes(context, 2)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def dial() -> socket.socket:
            sock = socket.create_connection(listener.getsockname(), 60)
            return stack.enter_context(sock)

        with Want("accept", 1):
            made.listen(listener, lambda _, handed: done.put(handed))
            client = Endpoint(lambda: python.wrap_socket(dial(), server_hostname=HOST))
            with client.result(), done.get(timeout=60):
                pass
        assert counters()["accept_failed"] == failed + 1
        assert caplog.text.count("accept() failed, retrying") == 1
        silent = [dial() for _ in range(3)]
        assert silent[0].recv(9) == b""  # its place is the third one's
        made.close()
        assert [each.recv(9) for each in silent] == [b""] * 3
    check_descriptors(before)


def test_no_thread_for_a_relay(context: SSLContext, python: ssl.SSLContext) -> None:
    """A client waits in the listening socket, without a handshake, until there is a thread."""
    until(lambda: not any(each.name == "tlsify-relay" for each in threading.enumerate()))
    failed = counters()["accept_failed"]
    done: queue.SimpleQueue[Handoff] = queue.SimpleQueue()
    made = Handshakes(context, 2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        made.listen(listener, lambda _, handed: done.put(handed))
        with Want("thread", 0):
            sock = socket.create_connection(address, 60)
            client = Endpoint(lambda: python.wrap_socket(sock, server_hostname=HOST))
            until(lambda: counters()["accept_failed"] >= failed + 2)
            assert backlog(address[1]) == 1
        with client.result(), done.get(timeout=60):
            pass
        made.close()


def test_no_thread(lab: Lab, handshakes: Handshakes, python: ssl.SSLContext) -> None:
    """The connection that would have begun the thread is lost, and counted; the next is served."""
    before = counters()["handshake_resources"]
    done: queue.SimpleQueue[Handoff] = queue.SimpleQueue()
    ours, theirs = lab.tcp()
    failed: list[BaseException] = []
    with Want("thread", 1) as want:
        handshakes.begin(theirs, done.put, failed.append)
        assert ours.recv(9) == b""
    assert len(failed) == 1
    assert want.has_failed
    assert counters()["handshake_resources"] == before + 1
    ours, theirs = lab.tcp()
    handshakes.begin(theirs, done.put)
    with python.wrap_socket(ours, server_hostname=HOST), done.get(timeout=60):
        pass


def test_failures(lab: Lab, handshakes: Handshakes, caplog: pytest.LogCaptureFixture) -> None:
    """Each is one line in the log, and reported; its connection is closed."""
    failed: list[BaseException] = []
    caplog.set_level("INFO")
    before = descriptors()
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b""):
        ours, theirs = lab.tcp()
        handshakes.begin(theirs, lambda _: pytest.fail("no client"), failed.append)
        ours.sendall(greeting)
        ours.shutdown(socket.SHUT_WR)
        answer = ours.recv(100)
        assert answer[:1] in {b"", b"\x15"}
        while ours.recv(100):
            pass
        ours.close()
    until(lambda: caplog.text.count("connection refused") == 2)
    assert "Traceback" not in caplog.text
    handshakes.close()
    assert len(failed) == 2
    check_descriptors(before)


def test_connection_that_nobody_takes(
    lab: Lab, handshakes: Handshakes, python: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault in who was to take it cuts the connection at once, rather than at a collection."""
    failed: list[BaseException] = []
    kept: list[Handoff] = []

    def done(handed: Handoff) -> None:
        kept.append(handed)
        raise LookupError("planted")

    ours, theirs = lab.tcp()
    handshakes.begin(theirs, done, failed.append)
    with (
        python.wrap_socket(ours, server_hostname="localhost", suppress_ragged_eofs=False) as sock,
        pytest.raises((ssl.SSLEOFError, ConnectionError)),
    ):
        sock.recv(1)
    until(lambda: failed)
    assert isinstance(failed[0], LookupError)
    assert "bug in a handshake" in caplog.text


def test_end(lab: Lab, context: SSLContext) -> None:
    """What is under way is given up, and nothing is left; an end without a beginning is none."""
    before = descriptors()
    made = Handshakes(context)
    made.close()
    ours, theirs = lab.tcp()
    failed: list[BaseException] = []
    made.begin(theirs, lambda _: None, failed.append)
    made.close()
    made.close()
    assert [str(why) for why in failed] == ["the server ends"]
    assert ours.recv(9) == b""
    ours.close()
    check_descriptors(before)


def test_room_for_others(lab: Lab, handshakes: Handshakes) -> None:
    """It is made by the one that has stalled, if there is any."""
    handshakes.make_room(pressing=True)
    failed: list[BaseException] = []
    ours, theirs = lab.tcp()
    handshakes.begin(theirs, lambda _: None, failed.append)

    def has_made_room() -> bool:
        handshakes.make_room(pressing=True)
        return bool(failed)

    until(has_made_room)
    assert str(failed[0]) == "its handshake has stalled"
    assert ours.recv(9) == b""


def test_unusable_context() -> None:
    """It is told at once; one that has become so costs the connection."""
    with pytest.raises(ConfigError, match="needs a certificate"):
        Handshakes(SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_context_that_has_become_unusable(
    lab: Lab, context: SSLContext, handshakes: Handshakes
) -> None:
    """The connection is closed."""
    context.verify_mode = ssl.CERT_REQUIRED
    ours, theirs = lab.tcp()
    handshakes.begin(theirs, lambda _: None)
    assert ours.recv(9) == b""
