"""Tests of starttls with the servers that people run: they change to TLS, or do not offer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.conversations import packet
from tests.interop.carriers import MODES
from tests.interop.daemons import (
    Ground,
    dovecot,
    exim,
    inspircd,
    mariadb,
    postgres,
    prosody,
    running,
    slapd,
    vsftpd,
)
from tests.interop.programs import PATIENCE, TIMEOUT
from tlsify.codepoints import CipherSuite
from tlsify.config import KtlsPolicy
from tlsify.connection.establish import connect
from tlsify.connection.handoff import Offload
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.connection.stream import TLSSocket
from tlsify.errors import DeadlineExceeded, HandshakeError
from tlsify.starttls.upgrade import PROTOCOLS, upgrade

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.peers import Site

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_TLS13 = CipherSuite.TLS_AES_128_GCM_SHA256
_NOT_OFFERED = "the server does not offer TLS here"
_STREAM = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:%s' to='localhost' version='1.0' "
    b"xmlns:stream='http://etherx.jabber.org/streams'>"
)
# A start-up packet of version 3 for the user postgres, and an answer to a greeting as root.
_START_UP = b"\0\0\0\x17\0\3\0\0user\0postgres\0\0"
_AS_ROOT = bytes.fromhex("008a0000 00000001 2d") + bytes(23) + b"root\0\0"


class Server(NamedTuple):
    """A real server.

    Attributes:
        start: gives its command.
        ask: what is sent inside TLS.
        answer: what comes back, among other things.
        refusal: what the error says if it is set up without TLS; None if it does not answer.
        ready: what it prints, to its standard error, when it listens and is ready for us.
    """

    start: Callable[[Ground], list[str]]
    ask: bytes
    answer: bytes
    refusal: str | None = _NOT_OFFERED
    ready: str = ""


SERVERS = {
    "smtp": Server(exim, b"EHLO localhost\r\n", b"250 HELP\r\n"),
    "lmtp": Server(dovecot("lmtp"), b"LHLO localhost\r\n", b"250 PIPELINING\r\n"),
    "imap": Server(dovecot("imap"), b"a CAPABILITY\r\n", b"AUTH=PLAIN"),
    "pop3": Server(dovecot("pop3"), b"CAPA\r\n", b"SASL PLAIN"),
    "sieve": Server(dovecot("sieve"), b"", b'OK "TLS negotiation successful."\r\n'),
    "ftp": Server(vsftpd, b"FEAT\r\n", b"211 End\r\n", "refuses to change to TLS: '5"),
    "irc": Server(inspircd, b"CAP LS 302\r\n", b" CAP * LS ", None),
    # An anonymous bind, and its success.
    "ldap": Server(
        slapd,
        bytes.fromhex("300c 020102 6007 020103 0400 8000"),
        bytes.fromhex("300c 020102 6107 0a0100 0400 0400"),
        "refuses to change to TLS: 'result ",
    ),
    "xmpp": Server(prosody("c2s"), _STREAM % b"client", b"</stream:features>"),
    "xmpp-server": Server(prosody("s2s"), _STREAM % b"server", b"</stream:features>"),
    # AuthenticationOk; and packet number 3, OK.
    "postgres": Server(
        postgres,
        _START_UP,
        b"R\0\0\0\x08\0\0\0\0",
        ready="database system is ready to accept connections",
    ),
    "mysql": Server(mariadb, packet(_AS_ROOT, 2), b"\0\0\3\0\0\0\2\0"),
}
# MariaDB speaks MySQL's. Debian's news server, INN, wants to be set up as root, under its own name.
UNTRIED = {"mariadb", "nntp"}


def test_all_are_tried() -> None:
    """No protocol is forgotten."""
    assert set(SERVERS) == set(PROTOCOLS) - UNTRIED


@pytest.mark.parametrize(
    ("offload", "protocol"),
    [
        # What has become of the connection then is the same whatever was said before: of the
        # servers the guests have one.
        pytest.param(Offload.KERNEL, "smtp", id="kernel-smtp", marks=pytest.mark.ktls),
        *(pytest.param(Offload.RELAY, protocol, id=f"relay-{protocol}") for protocol in SERVERS),
    ],
)
def test_a_server_changes_to_tls(offload: Offload, protocol: str, site: Site) -> None:
    """It goes on inside TLS, in its own protocol."""
    peer = SERVERS[protocol]
    with running(peer.start, site.ec) as (program, port):
        program.wait_for_error(peer.ready)
        sock = program.dial(port)
        with closed_on_error(sock):
            upgrade(sock, protocol, "localhost", PATIENCE)
        with TLSSocket(connect(sock, site.client(_TLS13), KtlsPolicy(MODES[offload]))) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(peer.ask)
            answer = b""
            while peer.answer not in answer:
                more = stream.recv(2**16)
                assert more, answer
                answer += more


@pytest.mark.parametrize("protocol", SERVERS)
def test_a_server_without_tls_says_so(protocol: str, site: Site) -> None:
    """There is no going on in plaintext."""
    peer = SERVERS[protocol]
    expected = HandshakeError if peer.refusal else DeadlineExceeded
    with (
        running(peer.start, site.ec, tls=False) as (program, port),
        program.dial(port) as sock,
        pytest.raises(expected, match=peer.refusal),
    ):
        upgrade(sock, protocol, "localhost", PATIENCE if peer.refusal else 1)
