"""Tests of TLS to backends: what is agreed on, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import TYPE_CHECKING

import pytest

from tests.conversations import CONVERSATIONS
from tests.doubles import OFFLOADS, RELAY, Endpoint, check_descriptors, descriptors, recv_exactly
from tlsify.connection.establish import accept
from tlsify.connection.handoff import Offload
from tlsify.errors import DeadlineExceeded, HandshakeError, IdentityError
from tlsify.metrics.counters import backend_handshakes
from tlsify.names import ReferenceIdentifier
from tlsify.serving.backend.address import Backend
from tlsify.serving.backend.security import Security

if TYPE_CHECKING:
    from tests.doubles import Lab
    from tlsify.config import ClientConfig, KtlsPolicy
    from tlsify.connection.handoff import Handoff

both = pytest.mark.parametrize("policy", OFFLOADS)
THERE = Backend("backend.example.org", 443, is_tls=True)
SMTP = THERE.secured("smtp", always=True)


def agree(
    lab: Lab,
    config: ClientConfig,
    sock: socket.socket,
    alpn: bytes | None = None,
    policy: KtlsPolicy = RELAY,
    seconds: float = 60,
) -> Handoff:
    """Do one handshake with a backend."""
    sock.settimeout(0)
    security = Security({THERE: config, SMTP: config}, policy)
    there = SMTP if alpn == b"smtp" else THERE
    return lab.keep(asyncio.run(security.hand_over(there, sock, alpn, seconds), debug=True))


def counted(outcome: str) -> int:
    """Return how many handshakes have ended so."""
    return backend_handshakes()[outcome]


@both
@pytest.mark.parametrize(
    ("own", "alpn", "agreed"),
    [((), None, None), ((), b"h2", b"h2"), ((), b"h3", None), ((b"http/1.1",), b"h2", b"http/1.1")],
)
def test_alpn(
    lab: Lab, policy: KtlsPolicy, own: tuple[bytes, ...], alpn: bytes | None, agreed: bytes | None
) -> None:
    """What was agreed on with the client is offered, unless there is something of its own."""
    before = counted("ok")
    client, server = lab.configs()
    server = dataclasses.replace(server, alpn=(b"h2", b"http/1.1") if alpn != b"h3" else ())
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: accept(theirs, server, RELAY))
    handed = agree(lab, dataclasses.replace(client, alpn=own), ours, alpn, policy)
    assert handed.negotiated.alpn == agreed
    assert handed.offload is (Offload.RELAY if policy is RELAY else Offload.KERNEL)
    assert counted("ok") == before + 1
    lab.keep(other.result())


def test_one_configuration_for_each_protocol(lab: Lab) -> None:
    """OpenSSL's part of it is made once, and not for each connection."""
    security = Security({THERE: lab.configs()[0]}, RELAY)
    assert security._config(THERE, b"h2") is security._config(THERE, b"h2")
    assert security._config(THERE, None) is security._config(THERE, None)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("name", "identity"), ("garbage", "peer_misbehaved"), ("gone", "truncated")],
)
def test_wrong_backend(lab: Lab, kind: str, outcome: str) -> None:
    """It is an error of its own kind, and counted; nothing stays open."""
    before = counted(outcome)
    client, server = lab.configs()
    other = (ReferenceIdentifier.for_host("somebody.example"),)
    client = dataclasses.replace(client, identities=other, verify=True)
    ours, theirs = lab.tcp()

    def serve() -> None:
        if kind == "name":
            with pytest.raises(HandshakeError):
                accept(theirs, server, RELAY)
        elif kind == "garbage":
            theirs.sendall(bytes(99))
        else:
            recv_exactly(theirs, 1)
            theirs.shutdown(socket.SHUT_WR)

    working = Endpoint(serve)
    with pytest.raises(HandshakeError) as caught:
        agree(lab, client, ours)
    working.result()
    assert isinstance(caught.value, IdentityError) is (kind == "name")
    assert counted(outcome) == before + 1
    assert ours.fileno() == -1


def test_backend_that_says_nothing(lab: Lab) -> None:
    """It is waited for as long as a connection may take, and no longer."""
    before = counted("deadline")
    ours, _theirs = lab.tcp()
    with pytest.raises(DeadlineExceeded):
        agree(lab, lab.configs()[0], ours, seconds=0.05)
    assert counted("deadline") == before + 1


def test_starttls(lab: Lab) -> None:
    """TLS is asked for first, where that is the backend's protocol."""
    client, server = lab.configs()
    ours, theirs = lab.tcp()

    def serve() -> Handoff:
        for question, answer in CONVERSATIONS["smtp"]:
            assert recv_exactly(theirs, len(question)).startswith(question[:4])
            theirs.sendall(answer)
        return accept(theirs, server, RELAY)

    other = Endpoint(serve)
    agree(lab, client, ours, b"smtp")
    lab.keep(other.result())
    before = descriptors()
    ours, theirs = lab.tcp()
    theirs.sendall(b"554 go away\r\n")
    with pytest.raises(HandshakeError, match="554 go away"):
        agree(lab, client, ours, b"smtp")
    theirs.close()
    check_descriptors(before)
