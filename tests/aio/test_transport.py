"""Tests of transport: what a protocol sees of its connection, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import io
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.aio.peers import CARRIERS, INLINE, Echo, converse, raw_peer, serving, talk
from tests.doubles import (
    CLOSE_NOTIFY,
    KERNEL,
    RELAY,
    Lab,
    Middleman,
    check_descriptors,
    descriptors,
    flipped,
    reset,
)
from tlsify.aio.transport import attach, current, sendfile
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.parse import parse_certificates
from tlsify.ktls.probe import capabilities
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    import trustme

    from tlsify.config import KtlsPolicy, ServerConfig

    Run = Callable[[Any], Any]

both = pytest.mark.parametrize("policy", CARRIERS)
SECRET = b"plain text that must not be seen "
BIG = 4_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that cannot be overlooked."""
    path = tmp_path / "file"
    path.write_bytes(SECRET * (BIG // len(SECRET)))
    return path


def overflow(file: Path) -> bytes:
    """Make a file larger than all buffers on the way; return what is in it."""
    content = SECRET * (5 * BIG // len(SECRET))
    file.write_bytes(content)
    return content


def mutual(config: ServerConfig, authority: trustme.CA) -> ServerConfig:
    """Require clients' certificates."""
    trust = TrustAnchors(parse_certificates(authority.cert_pem.bytes(), "the test authority"))
    return dataclasses.replace(config, client_trust=trust, alpn=(b"http/1.1",))


@both
def test_facts(
    run: Run,
    policy: KtlsPolicy,
    server_config: ServerConfig,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
) -> None:
    """The transport tells of both ends, of the handshake, and of the offload."""
    client_context.set_alpn_protocols(["http/1.1"])
    config = mutual(server_config, authority)

    async def work() -> None:
        async with serving(config, policy) as server:
            sock = await asyncio.to_thread(socket.create_connection, server.address)
            with await asyncio.to_thread(
                client_context.wrap_socket, sock, server_hostname="example.org"
            ) as tls:
                protocol = await server.first()
                ask = protocol.transport.get_extra_info
                facts = ask("ssl_object")
                assert ask("sslcontext") is facts
                assert facts.selected_alpn_protocol() == "http/1.1"
                assert facts.version() == tls.version()
                assert ask("cipher") == tls.cipher()
                assert ask("compression") is None
                assert (("commonName", "client.example"),) in ask("peercert")["subject"]
                assert ask("peercert") == facts.getpeercert()
                assert facts.server_side
                assert ask("ktls") == ("kernel" if policy is KERNEL else "policy-off")
                assert ask("peername") == tls.getsockname()
                assert ask("sockname") == tls.getpeername()
                assert ask("socket").family == socket.AF_INET
                assert ask("socket").getpeername() == tls.getsockname()
                assert ask("nothing", 5) == 5
                assert not protocol.transport.is_closing()
                protocol.transport.abort()

    run(work())


@pytest.mark.each_kernel
@both
def test_echo(
    run: Run, policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """A protocol sees plaintext only, and the transport ends in good order."""

    async def work() -> None:
        async with serving(server_config, policy) as server:
            assert await converse(server, client_context, b"hello") == b"hello"
            assert await server.protocols[0].ended is None

    run(work())


@both
def test_current(
    run: Run, policy: KtlsPolicy, server_config: ServerConfig, client_context: ssl.SSLContext
) -> None:
    """Whatever a protocol does, and what its tasks do, knows the connection that it is for."""
    seen: list[Any] = []

    class Curious(Echo):
        def data_received(self, data: bytes) -> None:
            seen.append(current())
            self.task = asyncio.create_task(self.ask())
            super().data_received(data)

        async def ask(self) -> None:
            seen.append(current())

    async def work() -> None:
        async with serving(server_config, policy, Curious) as server:
            for expected in (1, 2):
                await converse(server, client_context, b"hello")
                assert seen == [server.handed[-1]] * 2
                assert len(server.handed) == expected
                seen.clear()
        assert current() is None

    run(work())


@pytest.mark.each_kernel
@both
def test_sendfile_on_the_wire(
    run: Run,
    policy: KtlsPolicy,
    server_config: ServerConfig,
    client_context: ssl.SSLContext,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sendfile is the kernel's own, the file arrives, and no byte of it is seen on the way."""
    calls: list[int] = []
    genuine = os.sendfile

    def counted(*args: Any) -> int:
        calls.append(genuine(*args))
        return calls[-1]

    monkeypatch.setattr(os, "sendfile", counted)
    content = file.read_bytes()

    def fetch(address: tuple[str, int]) -> Middleman:
        ours, near = socket.socketpair()
        far = socket.create_connection(address, timeout=60)
        for sock in (ours, near):
            sock.settimeout(60)
        with near, far:
            middleman = Middleman(near, far)
            with client_context.wrap_socket(ours, server_hostname="example.org") as tls:
                assert talk(tls, b"file") == content
            middleman.join()
        return middleman

    async def work() -> None:
        async with serving(server_config, policy, lambda: Echo(file)) as server:
            middleman = await asyncio.to_thread(fetch, server.address)
            assert len(middleman.from_right) > len(content)
            assert SECRET not in middleman.from_right
            assert await server.protocols[0].sent == len(content)
            if policy is not INLINE:  # which has to seal it
                assert sum(calls) == len(content)
                assert len(calls) > 1

    run(work())


@both
def test_answer_to_a_peer_that_has_ended(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """close_notify right behind the request costs nothing of an answer that does not fit."""
    answer = bytes(BIG)

    class Answers(Echo):
        def data_received(self, data: bytes) -> None:
            self.received += data
            if self.received == b"request":
                self.transport.write(answer)
                assert self.transport.get_write_buffer_size()

    async def work() -> None:
        async with serving(lab.configs()[1], policy, Answers) as server:
            peer = await raw_peer(lab, server)
            peer.sock.sendall(peer.data(b"request") + peer.seal(*CLOSE_NOTIFY))
            await server.first()
            assert await asyncio.to_thread(peer.recv_data, len(answer)) == answer
            assert await asyncio.to_thread(peer.recv) == CLOSE_NOTIFY
            assert await server.protocols[0].ended is None

    run(work())


@pytest.mark.each_kernel
@both
def test_truncation_is_an_end(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """A FIN without close_notify ends the transport as one with it: HTTP has its own framing."""

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            await asyncio.to_thread(peer.send_data, b"data")
            assert await asyncio.to_thread(peer.recv_data, 4) == b"data"
            peer.sock.shutdown(socket.SHUT_WR)
            assert await server.protocols[0].ended is None
            assert await asyncio.to_thread(peer.recv) in {CLOSE_NOTIFY, None}

    run(work())


@pytest.mark.each_kernel
@both
@pytest.mark.parametrize("fault", ["flipped bit", "error alert", "plaintext"])
def test_fault_of_the_peer(
    run: Run, lab: Lab, policy: KtlsPolicy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The protocol sees a connection error, the log has a line, and nobody is told of a bug."""
    caplog.set_level(logging.INFO)

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            if fault == "flipped bit":
                peer.sock.sendall(flipped(peer.data(b"data")))
            elif fault == "error alert":
                peer.send_alert(AlertDescription.internal_error)
            else:
                peer.sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            protocol = await server.first()
            assert isinstance(await protocol.ended, ConnectionError)

    run(work())
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == []
    assert any(record.message.startswith("connection ended") for record in caplog.records)


@pytest.mark.each_kernel
@pytest.mark.ktls
def test_key_update_behind_data(run: Run, lab: Lab) -> None:
    """A KeyUpdate in the segment of the data is served, though poll may hide it."""

    async def work() -> None:
        async with serving(lab.configs()[1], KERNEL) as server:
            peer = await raw_peer(lab, server)
            update = KeyUpdateRequest.update_not_requested
            peer.sock.sendall(peer.data(b"data") + peer.key_update(update))
            async with asyncio.timeout(10):
                protocol = await server.first()
                if not capabilities().rekey:
                    assert isinstance(await protocol.ended, ConnectionError)
                    alert = await asyncio.to_thread(peer.recv_alert)
                    assert alert is AlertDescription.internal_error
                    return
                await asyncio.to_thread(peer.send_data, b"later")
                assert await asyncio.to_thread(peer.recv_data, 9) == b"datalater"
                await asyncio.to_thread(peer.close_notify)
                assert await protocol.ended is None

    run(work())


@pytest.mark.each_kernel
@both
def test_control_records_between_data(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """A user_canceled alert reaches no protocol."""

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            for message in (b"one", b"two"):
                peer.send_alert(AlertDescription.user_canceled, 1)
                peer.send(ContentType.application_data, message)
                assert await asyncio.to_thread(peer.recv_data, 3) == message
            peer.close_notify()
            assert await server.protocols[0].ended is None

    run(work())


@both
def test_cancelled(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """Cancelling `attach` ends the connection, and the protocol is told."""

    async def work() -> None:
        client, server = lab.pair(policy)
        made: list[Echo] = []

        def make() -> Echo:
            made.append(Echo())
            return made[0]

        task = asyncio.create_task(attach(make, server))
        await asyncio.sleep(0)
        await made[0].connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await made[0].ended is None
        assert await asyncio.to_thread(client.sock.recv, 1) == b"" if policy is RELAY else True
        assert server.sock.fileno() == -1

    run(work())


def test_factory_that_fails(run: Run, lab: Lab) -> None:
    """The connection is closed, and the error is the program's own."""

    def make() -> asyncio.Protocol:
        raise ZeroDivisionError

    async def work() -> None:
        client, server = lab.pair(RELAY)
        with pytest.raises(ZeroDivisionError):
            await attach(make, server)
        assert await asyncio.to_thread(client.sock.recv, 1) == b""

    run(work())


@both
def test_client_gone_in_a_file(
    run: Run,
    policy: KtlsPolicy,
    server_config: ServerConfig,
    client_context: ssl.SSLContext,
    file: Path,
) -> None:
    """Sendfile reports a connection error; others go on, and nothing is left open."""

    def vanish(address: tuple[str, int]) -> None:
        sock = socket.create_connection(address, timeout=60)
        tls = client_context.wrap_socket(sock, server_hostname="example.org")
        tls.sendall(b"file")
        tls.recv(1000)
        reset(tls)

    overflow(file)

    async def work() -> None:
        async with serving(server_config, policy, lambda: Echo(file)) as server:
            before = descriptors()
            await asyncio.to_thread(vanish, server.address)
            with pytest.raises(ConnectionError):
                await server.protocols[0].sent
            await server.protocols[0].ended
            assert await converse(server, client_context, b"hello") == b"hello"
            await server.protocols[1].ended
            await asyncio.to_thread(check_descriptors, before)

    run(work())


@both
def test_file_that_shrinks(
    run: Run,
    policy: KtlsPolicy,
    server_config: ServerConfig,
    client_context: ssl.SSLContext,
    file: Path,
) -> None:
    """What is sent is what was there, and the caller is told how much that is."""

    def fetch(address: tuple[str, int]) -> int:
        sock = socket.create_connection(address, timeout=60)
        with client_context.wrap_socket(sock, server_hostname="example.org") as tls:
            tls.sendall(b"file")
            answer = bytearray(tls.recv(100))
            # The kernel sends the file's pages themselves, and where a new end cuts a folio, clears
            # what is behind it, on its way or not (mm/truncate.c): so there is no new end inside.
            os.truncate(file, 0)
            while more := tls.recv(2**16):
                answer += more
        assert answer == content[: len(answer)]
        return len(answer)

    content = overflow(file)

    async def work() -> None:
        async with serving(server_config, policy, lambda: Echo(file)) as server:
            arrived = await asyncio.to_thread(fetch, server.address)
            assert await server.protocols[0].sent == arrived

    run(work())


@both
def test_parts_of_a_file(run: Run, lab: Lab, policy: KtlsPolicy, tmp_path: Path) -> None:
    """Offset and count are honoured; writing meanwhile is refused, and in order afterwards."""
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            protocol = await server.first()
            protocol.transport.write(b"<")
            with path.open("rb") as file:
                assert await sendfile(protocol.transport, file, 2, 3) == 3
                assert file.tell() == 5
                assert await sendfile(protocol.transport, file, 8, 2) == 2
                assert await sendfile(protocol.transport, file, 11) == 0
            protocol.transport.write(b">")
            assert await asyncio.to_thread(peer.recv_data, 7) == b"<23489>"
            protocol.transport.close()

    run(work())


@both
def test_file_for_a_peer_that_is_gone(run: Run, lab: Lab, policy: KtlsPolicy, file: Path) -> None:
    """It is a lost connection, which servers expect, and no error of the program."""

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            protocol = await server.first()
            reset(peer.sock)
            while not protocol.transport.is_closing():
                protocol.transport.write(SECRET)
                await asyncio.sleep(0)
            with file.open("rb") as content, pytest.raises(ConnectionResetError):
                await sendfile(protocol.transport, content)

    run(work())


@both
def test_one_file_at_a_time(run: Run, lab: Lab, policy: KtlsPolicy, file: Path) -> None:
    """A file that waits for the peer to read is not broken into by another one."""
    content = overflow(file)

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            protocol = await server.first()
            with file.open("rb") as first, file.open("rb") as second:
                sending = asyncio.create_task(sendfile(protocol.transport, first, 0, len(content)))
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError):
                    await sendfile(protocol.transport, second, 0, 1)
                assert await asyncio.to_thread(peer.recv_data, len(content)) == content
                assert await sending == len(content)
                assert await sendfile(protocol.transport, second, 1, 1) == 1
            assert await asyncio.to_thread(peer.recv_data, 1) == content[1:2]
            protocol.transport.close()

    run(work())


@both
@pytest.mark.parametrize("is_promised", [True, False])
def test_file_that_is_given_up(
    run: Run, lab: Lab, policy: KtlsPolicy, file: Path, *, is_promised: bool
) -> None:
    """A cancelled file ends its connection: the peer would take the next data for the rest."""
    content = overflow(file)

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            transport = (await server.first()).transport
            with file.open("rb") as source:
                count = len(content) if is_promised else None
                sending = asyncio.create_task(sendfile(transport, source, 0, count))
                await asyncio.to_thread(peer.recv_data, 1)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                assert transport.is_closing()
            rest = await asyncio.to_thread(lambda: list(iter(peer.recv, None)))
            assert {kind for kind, _ in rest} == {ContentType.application_data}

    run(work())


@both
def test_impossible_part_of_a_file(run: Run, lab: Lab, policy: KtlsPolicy, file: Path) -> None:
    """A program's mistake is told before anything is sent, and costs no connection."""
    impossible: list[tuple[Any, Any]] = [(-1, 1), (0, 0), (0, -1), ("0", 1), (0, 1.0)]

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            protocol = await server.first()
            with file.open("rb") as source:
                for offset, count in impossible:
                    with pytest.raises((ValueError, TypeError)):
                        await sendfile(protocol.transport, source, offset, count)
            with file.open() as text, pytest.raises(ValueError, match="binary"):
                await sendfile(protocol.transport, text, 0, 1)  # type: ignore[arg-type]
            protocol.transport.write(b"the answer")
            assert await asyncio.to_thread(peer.recv_data, 10) == b"the answer"
            protocol.transport.close()

    run(work())


@both
def test_file_that_is_too_short(
    run: Run, lab: Lab, policy: KtlsPolicy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer, to whom more was promised, sees truncation, and nothing in its place."""
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            protocol = await server.first()
            with path.open("rb") as file:
                assert await sendfile(protocol.transport, file, 8, 100) == 2
            assert protocol.transport.is_closing()
            protocol.transport.write(b"the next answer")
            assert await asyncio.to_thread(peer.recv_data, 2) == b"89"
            assert await asyncio.to_thread(peer.recv) is None  # not even close_notify
            assert await protocol.ended is None

    run(work())
    (record,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
    assert record.getMessage() == "connection ended: a file had 2 of 100 bytes to send"


@both
def test_file_that_cannot_be_read(run: Run, lab: Lab, policy: KtlsPolicy) -> None:
    """How much of it was sent nobody knows: the connection ends there."""

    class Broken(io.BytesIO):
        def readinto(self, _: Any) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def read(self, _: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            protocol = await server.first()
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                await sendfile(protocol.transport, Broken(), 0, 100)
            assert protocol.transport.is_closing()
            assert await asyncio.to_thread(peer.recv) is None

    run(work())


class Masked(io.BytesIO):
    """A file that reads other bytes than its descriptor has."""

    def __init__(self, content: bytes) -> None:
        """Borrow a descriptor."""
        super().__init__(content)
        self._other = io.FileIO(__file__)

    def fileno(self) -> int:
        """Return the other one's."""
        return self._other.fileno()

    def close(self) -> None:
        """Close both."""
        self._other.close()
        super().close()


@both
@pytest.mark.parametrize("kind", [io.BytesIO, Masked])
def test_file_in_memory(run: Run, lab: Lab, policy: KtlsPolicy, kind: type[io.BytesIO]) -> None:
    """What is no file for the kernel is copied, as its own ``read`` has it."""
    content = bytes(range(256)) * 2000

    async def work() -> None:
        async with serving(lab.configs()[1], policy) as server:
            peer = await raw_peer(lab, server)
            protocol = await server.first()
            file = kind(content)
            sending = asyncio.create_task(
                sendfile(protocol.transport, file, 256, len(content) - 500)
            )
            expected = content[256:-244]
            assert await asyncio.to_thread(peer.recv_data, len(expected)) == expected
            assert await sending == len(expected)
            file.close()
            protocol.transport.close()

    run(work())
