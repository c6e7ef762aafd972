"""Tests of remote_engine: what a handshake by a key holder comes to, beside one done here."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HOST, issue
from tests.doubles import (
    OFFLOADS,
    RELAY,
    VERSIONS,
    Endpoint,
    RawPeer,
    check_descriptors,
    descriptors,
    read,
    read_exactly,
)
from tlsify.aio.handshake import hand_over
from tlsify.codepoints import ContentType, ProtocolVersion
from tlsify.config import ServerConfig
from tlsify.connection.establish import accept, connect
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import (
    ConfigError,
    DeadlineExceeded,
    HandshakeError,
    KeyHolderError,
    ResourceError,
    Truncated,
)
from tlsify.isolation import remote_engine, wire
from tlsify.isolation.remote_engine import IsolatedServer, Rendezvous, keep_only
from tlsify.system import scm_rights
from tlsify.tls.engine import Engine
from tlsify.tls.messages import KeyUpdateRequest
from tlsify.tls.record import encode_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

    from tests.doubles import Lab
    from tests.isolation.conftest import Keys
    from tlsify.config import ClientConfig, KtlsPolicy
    from tlsify.connection.handoff import Handoff
    from tlsify.credentials.anchors import TrustAnchors

    Isolate = Callable[..., Keys]


def _facts(handed: Handoff) -> tuple[object, ...]:
    found = handed.negotiated
    return (
        *(handed.offload, handed.reason, found.suite, found.alpn, found.server_name),
        *(found.certificate, found.group, found.resumed, found.max_fragment_length),
    )


def _meet(lab: Lab, config: ServerConfig, client: ClientConfig, policy: KtlsPolicy) -> Any:
    """Return what both ends get of it: facts, or an error and its alert."""
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: lab.keep(accept(theirs, config, policy)))
    found: list[Any] = []
    works: list[Callable[[], Handoff]] = [
        lambda: lab.keep(connect(ours, client, policy)),
        other.result,
    ]
    for work in works:
        try:
            handed = work()
        except HandshakeError as exc:
            found.append((type(exc), str(exc), exc.alert, exc.hint))
        else:
            found.append(_facts(handed))
    return found


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("version", VERSIONS)
def test_as_if_done_here(
    version: ProtocolVersion, policy: KtlsPolicy, lab: Lab, isolate: Isolate
) -> None:
    """Facts are the same, and data goes both ways; keys and sequence numbers fit."""
    client, config = lab.configs(version)
    client = replace(client, alpn=(b"http/1.1", b"h2"), server_name=HOST)
    config = replace(config, alpn=(b"h2",))
    isolated = isolate(lambda: config, policy).load()
    assert _meet(lab, isolated, client, policy) == _meet(lab, config, client, policy)
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: lab.keep(accept(theirs, isolated, policy)))
    near, far = lab.keep(connect(ours, client, policy)), other.result()
    for source, sink in ((near, far), (far, near)):
        data = bytes(range(256)) * 100
        source.sock.sendall(data)
        assert read_exactly(sink, len(data)) == data
    near.shutdown()
    assert read(far) == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_refusals(
    version: ProtocolVersion, lab: Lab, isolate: Isolate, authority: trustme.CA, trust: TrustAnchors
) -> None:
    """Both ends get the same errors and alerts as without isolation, whatever is wrong."""
    client, config = lab.configs(version)
    config = replace(config, alpn=(b"h2",), client_trust=trust, client_required=True)
    mine = replace(client, key_pair=issue(authority, "client.example"))
    cases = [
        client,  # without a certificate
        replace(client, key_pair=make_key_pair(["nobody"])),
        replace(mine, alpn=(b"http/1.1",)),
        replace(mine, versions=frozenset(ProtocolVersion) - {version}),
        mine,
    ]
    isolated = isolate(lambda: config).load()
    for case in cases:
        here, there = (_meet(lab, each, case, RELAY) for each in (config, isolated))
        assert here == there
    assert here[1][5], "it has shown itself"


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        encode_record(ContentType.alert, b"\1\0"),
        encode_record(ContentType.application_data, b"data"),
        encode_record(ContentType.change_cipher_spec, b"\1") * 3,
        encode_record(ContentType.handshake, b"\1") + b"garbage",
        encode_record(ContentType.handshake, b"\1\0\0\4nono"),
        encode_record(ContentType.handshake, b"\1") + b"\x17\3\3\xff\xff",
        b"",
    ],
)
def test_bytes_that_are_no_hello(said: bytes, lab: Lab, isolate: Isolate) -> None:
    """The peer gets the same answer as without isolation."""
    _, config = lab.configs()
    found = []
    for each in (config, isolate(lambda: config).load()):
        ours, theirs = lab.tcp()
        ours.sendall(said)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(HandshakeError) as caught:
            accept(theirs, each, RELAY)
        found.append((type(caught.value), str(caught.value), caught.value.alert, ours.recv(100)))
    assert found[0] == found[1]


def test_resumption(
    lab: Lab, isolate: Isolate, tmp_path: Path, client_config: ClientConfig
) -> None:
    """Tickets are the holders', which take each other's, and those of an earlier configuration."""
    tmp_path.chmod(0o700)
    _, config = lab.configs()
    client = replace(client_config, session_store=str(tmp_path))
    keys = isolate(lambda: replace(config, resumption=True), RELAY, 2)
    first, second = keys.load(), keys.load()
    resumed = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for each in (first, first, first, second):
            ours = socket.create_connection(listener.getsockname(), timeout=60)
            other = Endpoint(partial(accept, listener.accept()[0], each, RELAY))
            near, far = lab.keep(connect(ours, client, RELAY)), lab.keep(other.result())
            far.sock.sendall(b"x")
            read_exactly(near, 1)
            resumed.append(far.negotiated.resumed)
    assert resumed == [False, True, True, True]


def test_certificates_by_name(lab: Lab, isolate: Isolate, authority: trustme.CA) -> None:
    """The holder shows the one for the name that the client asks for."""
    pairs = [issue(authority, name) for name in ("a.example", "b.example")]
    config = ServerConfig(key_pair=pairs[0], more_key_pairs=tuple(pairs[1:]))
    isolated = isolate(lambda: config).load()
    assert [each.names for each in (isolated.key_pair, *isolated.more_key_pairs)] == [
        ("a.example",), ("b.example",),
    ]  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    for name in ("a.example", "b.example"):
        ours, theirs = lab.tcp()
        other = Endpoint(partial(accept, theirs, isolated, RELAY))
        with context.wrap_socket(ours, server_hostname=name):
            assert lab.keep(other.result()).negotiated.server_name == name


def test_key_update(lab: Lab, isolate: Isolate) -> None:
    """A peer's KeyUpdate is followed and answered on the relay, as OpenSSL would."""
    client, config = lab.configs()
    isolated = isolate(lambda: config).load()
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: lab.keep(accept(theirs, isolated, RELAY)))
    peer, server = RawPeer(ours, client), other.result()
    ours.sendall(peer.key_update(KeyUpdateRequest.update_requested) + peer.data(b"new key"))
    assert read_exactly(server, 7) == b"new key"
    assert peer.recv() == (ContentType.handshake, b"\x18\0\0\1\0")
    peer.follow_key_update()
    server.sock.sendall(b"answer")
    assert peer.recv_data(6) == b"answer"


def test_key_log(lab: Lab, isolate: Isolate, tmp_path: Path) -> None:
    """The server's process writes it, since the holder may write nowhere."""
    client, config = lab.configs()
    config = replace(config, key_log=tmp_path / "log")
    isolated = isolate(lambda: config).load()
    _meet(lab, isolated, client, RELAY)
    assert b"SERVER_TRAFFIC_SECRET_0" in (tmp_path / "log").read_bytes()


def test_on_a_loop(lab: Lab, isolate: Isolate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many handshakes are under way at a time; one that is abandoned leaves nothing open."""
    client, config = lab.configs()
    isolated = isolate(lambda: config, RELAY, 2).load()
    before = descriptors()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                ours, theirs = lab.tcp()
                served = group.create_task(hand_over(theirs, isolated, RELAY))
                group.create_task(_visit(ours, served))
        ours, theirs = lab.tcp()
        greeting = asyncio.create_task(_greet(ours))
        with pytest.raises(DeadlineExceeded, match="the handshake did not finish"):
            await hand_over(theirs, isolated, RELAY)
        await greeting
        ours.close()

    async def _visit(ours: socket.socket, served: asyncio.Task[Handoff]) -> None:
        async with asyncio.timeout(60):
            near = await hand_over(ours, client, RELAY)
            with near, await served as far:
                await asyncio.get_running_loop().sock_sendall(far.sock, b"hello")
                assert await asyncio.get_running_loop().sock_recv(near.sock, 5) == b"hello"

    async def _greet(ours: socket.socket) -> None:
        """Begin a handshake, and say nothing more until its time is over."""
        loop = asyncio.get_running_loop()
        ours.settimeout(0)
        await loop.sock_sendall(ours, Engine(client).output())
        assert await loop.sock_recv(ours, 1), "the holder has answered"
        monkeypatch.setattr(loop, "time", lambda clock=loop.time: clock() + 3600)

    asyncio.run(serve())
    lab.__exit__()
    check_descriptors(before)


# -- holders that are not there


def _stranger() -> tuple[IsolatedServer, socket.socket]:
    """Return a configuration, and the holders' end of its rendezvous, for a test to hold."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair = make_key_pair([HOST])
    shown = remote_engine.ShownCertificate(pair.chain, None)
    config = ServerConfig(key_pair=pair)
    return IsolatedServer(
        key_pair=shown,
        timeout=60,
        rendezvous=Rendezvous(ours.detach()),
        choices=(config.aeads,),
    ), theirs


@pytest.mark.parametrize("moment", ["before", "within"])
def test_holder_that_is_gone(moment: str, lab: Lab) -> None:
    """The error says so; the peer gets internal_error, or an end, and never plaintext."""
    isolated, holder = _stranger()
    client, _ = lab.configs()
    ours, theirs = lab.tcp()

    def vanish() -> None:
        if moment == "within":
            _, number = scm_rights.receive(holder, wire.MAX_REQUEST)
            os.close(number or 0)
        holder.close()

    if moment == "before":
        vanish()
    other = Endpoint(lambda: accept(theirs, isolated, RELAY))
    near = Endpoint(lambda: connect(ours, client, RELAY))
    if moment == "within":
        vanish()
    with pytest.raises(KeyHolderError, match="no key holder does the handshake"):
        other.result()
    with pytest.raises(HandshakeError, match="internal_error"):
        near.result()
    isolated.rendezvous.leave()


def test_holder_that_hangs(lab: Lab) -> None:
    """The deadline's error names it, and not the peer."""
    isolated, holder = _stranger()
    client, _ = lab.configs()
    ours, theirs = lab.tcp()
    near = Endpoint(lambda: connect(ours, client, RELAY))
    with holder, pytest.raises(DeadlineExceeded, match="key holder did not answer"):
        accept(theirs, replace(isolated, timeout=0.05), RELAY)
    with pytest.raises((HandshakeError, OSError)):
        near.result()


def test_holder_that_talks_nonsense(lab: Lab) -> None:
    """It is as good as gone."""
    isolated, holder = _stranger()
    client, _ = lab.configs()
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: accept(theirs, isolated, RELAY))
    near = Endpoint(lambda: connect(ours, client, RELAY))
    with holder:
        request, number = scm_rights.receive(holder, wire.MAX_REQUEST)
        assert request[:2] == b"\1\0"
        with socket.socket(fileno=number) as channel:
            channel.send(b"nonsense")
            with pytest.raises(KeyHolderError, match=r"malformed|beyond"):
                other.result()
    with pytest.raises(HandshakeError):
        near.result()


def test_queue_that_is_full(lab: Lab, isolate: Isolate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake waits for room in it."""
    client, config = lab.configs()
    isolated = isolate(lambda: config).load()
    invite, refused = Rendezvous.invite, [None, None]

    def reluctant(self: Rendezvous, request: bytes) -> socket.socket | None:
        return refused.pop() if refused else invite(self, request)

    monkeypatch.setattr(Rendezvous, "invite", reluctant)
    assert _meet(lab, isolated, client, RELAY)[1][2] is not None
    assert refused == []


def test_room_in_the_queue() -> None:
    """There is some, and then none: it does not block."""
    isolated, holder = _stranger()
    made = []
    with holder:
        while (channel := isolated.rendezvous.invite(b"request")) is not None:
            made.append(channel)
    assert len(made) > 10
    for each in made:
        each.close()


def test_want_of_descriptors(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a shortage, counted as one."""
    isolated, holder = _stranger()

    def none(*_: object) -> None:
        raise OSError(24, "Too many open files")

    ours, theirs = lab.tcp()
    ours.sendall(encode_record(ContentType.handshake, b"\1\0"))
    monkeypatch.setattr(socket, "socketpair", none)
    with holder, pytest.raises(ResourceError, match="EMFILE"):
        accept(theirs, isolated, RELAY)


def test_key_that_is_asked_for() -> None:
    """There is none, and who asks is told where it is."""
    isolated, holder = _stranger()
    with holder:
        with pytest.raises(ConfigError, match="in a key holder"):
            _ = isolated.key_pair.key
        keep_only(isolated.rendezvous)
        channel = isolated.rendezvous.invite(b"request")
        assert channel is not None
        channel.close()
    keep_only(None)
    with pytest.raises(OSError, match="Bad file"):
        isolated.rendezvous.invite(b"request")


def test_peer_that_ends(lab: Lab, isolate: Isolate) -> None:
    """In the middle of the handshake, too, it is a truncation."""
    client, config = lab.configs()
    isolated = isolate(lambda: config).load()
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: accept(theirs, isolated, RELAY))
    ours.sendall(Engine(client).output())
    assert ours.recv(100)
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated):
        other.result()
