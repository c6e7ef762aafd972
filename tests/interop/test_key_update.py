"""Tests of KeyUpdate, and of TLS 1.2's renegotiation, with the peers that can be told to do it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.doubles import Endpoint, queued, until
from tests.interop.carriers import CARRIERS, MODES
from tests.interop.matrix import gnutls_options, openssl_options
from tests.interop.peers import (
    LISTENING,
    accepted,
    address,
    listening,
    openssl_trust,
    receive_exactly,
)
from tests.interop.programs import PATIENCE, TIMEOUT, Program, require
from tests.ports import free_port
from tlsify.codepoints import AlertDescription, CipherSuite
from tlsify.config import KtlsPolicy
from tlsify.connection.establish import accept, connect
from tlsify.connection.handoff import Offload
from tlsify.connection.stream import TLSSocket
from tlsify.errors import KeyUpdateRefused, PeerAlert, RekeyUnsupported
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities
from tlsify.metrics.counters import counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.interop.peers import Site

pytestmark = [pytest.mark.each_kernel, pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_TLS13 = CipherSuite.TLS_AES_128_GCM_SHA256
_TLS12 = CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256

by_carrier = pytest.mark.parametrize("offload", CARRIERS)


@pytest.fixture(autouse=True)
def _probed() -> None:
    """Probe now: probing rekeys too, and moves the counters."""
    capabilities()


class Talker:
    """A program that takes lines, some of which are commands, and prints what it receives."""

    def __init__(self, program: Program, stream: TLSSocket) -> None:
        """Store both ends."""
        self._program, self.stream = program, stream

    def command(self, line: bytes) -> None:
        """Write a line, and wait until it has been read: what comes in one piece is one command."""
        stdin = self._program.process.stdin
        assert stdin is not None
        os.write(stdin.fileno(), line)
        until(lambda: not queued(stdin), PATIENCE)  # type: ignore[arg-type]

    def up(self, line: bytes) -> None:
        """Make it send a line, and receive the line."""
        self.command(line)
        assert receive_exactly(self.stream, len(line)) == line

    def down(self, line: bytes) -> None:
        """Send it a line, which it prints."""
        self.stream.sendall(line)
        self._program.wait_for(line.strip())


@contextlib.contextmanager
def _openssl_client(suite: CipherSuite, site: Site, offload: Offload) -> Iterator[Talker]:
    require("openssl")
    with listening() as listener:
        words = ["openssl", "s_client", "-connect", address(listener), *openssl_trust(site)]
        with Program([*words, *openssl_options(suite)]) as program:
            policy = KtlsPolicy(MODES[offload])
            with _stream(accept(accepted(listener), site.server(suite), policy)) as stream:
                yield Talker(program, stream)


@contextlib.contextmanager
def _openssl_server(suite: CipherSuite, site: Site, offload: Offload) -> Iterator[Talker]:
    require("openssl")
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1"]
    words += ["-cert", str(site.ec.chain), "-key", str(site.ec.key), *openssl_options(suite)]
    with Program(words) as program:
        port = int(program.wait_for(LISTENING)[1].rpartition(b":")[2])
        policy = KtlsPolicy(MODES[offload])
        with _stream(connect(program.dial(port), site.client(suite), policy)) as stream:
            # Before the handshake is over it takes no commands.
            program.wait_for(rb"CIPHER is ")
            yield Talker(program, stream)


@contextlib.contextmanager
def _gnutls_client(suite: CipherSuite, site: Site, offload: Offload) -> Iterator[Talker]:
    require("gnutls-cli")
    with listening() as listener:
        words = ["gnutls-cli", "127.0.0.1", f"--port={listener.getsockname()[1]}"]
        words += ["--sni-hostname=localhost", "--verify-hostname=localhost", "--inline-commands"]
        words += [f"--x509cafile={site.authority}"]
        with Program([*words, *gnutls_options(suite)]) as program:
            policy = KtlsPolicy(MODES[offload])
            with _stream(accept(accepted(listener), site.server(suite), policy)) as stream:
                program.wait_for(rb"Simple Client Mode")
                yield Talker(program, stream)


def _stream(handoff: object) -> TLSSocket:
    stream = TLSSocket(handoff)  # type: ignore[arg-type]
    stream.settimeout(PATIENCE)
    return stream


START: dict[str, Callable[[CipherSuite, Site, Offload], contextlib.AbstractContextManager[Talker]]]
START = {
    "openssl s_client": _openssl_client,
    "openssl s_server": _openssl_server,
    "gnutls-cli": _gnutls_client,
}
# What each takes for a KeyUpdate, and whether it asks for one in return.
COMMANDS = [
    ("openssl s_client", b"k\n", False),
    ("openssl s_client", b"K\n", True),
    ("openssl s_server", b"k\n", False),
    ("openssl s_server", b"K\n", True),
    ("gnutls-cli", b"^rekey1^\n", False),
    ("gnutls-cli", b"^rekey^\n", True),
]


def _moved(before: dict[str, int], now: dict[str, int], *names: str) -> list[int]:
    return [now.get(name, 0) - before.get(name, 0) for name in names]


@by_carrier
@pytest.mark.parametrize(
    ("peer", "command", "wanted"), COMMANDS, ids=lambda it: str(it).strip() if it != "" else ""
)
def test_both_sides_change_their_keys(
    offload: Offload, peer: str, command: bytes, *, wanted: bool, site: Site
) -> None:
    """Data passes both ways before and after a KeyUpdate of either side's."""
    with START[peer](_TLS13, site, offload) as talk:
        talk.down(b"down one\n")
        talk.up(b"up one\n")
        kernel, ours = tls_stat(), counters()
        talk.command(command)
        if offload is Offload.KERNEL and not capabilities().rekey:
            with pytest.raises(KeyUpdateRefused):
                talk.up(b"never arrives\n")
            return
        talk.up(b"up two\n")
        talk.down(b"down two\n")
        talk.command(command)
        talk.command(command)
        talk.up(b"up three\n")
        talk.down(b"down three\n")
        received = sent = 3
        if offload is Offload.RELAY:
            with pytest.raises(RekeyUnsupported):
                talk.stream.handoff.key_update()
            return
        # Two requests that came before we had anything to say may have one answer.
        sent = _moved(ours, counters(), "key_update_sent")[0]
        assert sent in ({2, 3} if wanted else {0})
        for number in range(3):
            talk.stream.handoff.key_update(request=number == 2)
            talk.down(b"down, with our new key %d\n" % number)
        talk.up(b"up four\n")  # in front of this comes the answer to the last
        received, sent = received + 1, sent + 3
        names = ("TlsRxRekeyReceived", "TlsRxRekeyOk", "TlsTxRekeyOk", "TlsDecryptError")
        assert _moved(kernel, tls_stat(), *names) == [received, received, sent, 0]
        moved = _moved(ours, counters(), "key_update_received", "key_update_sent")
        assert moved == [received, sent]
        talk.stream.shutdown(socket.SHUT_WR)


@by_carrier
def test_gnutls_echo_follows(offload: Offload, site: Site) -> None:
    """gnutls-serv follows our KeyUpdates, and answers those that ask for it."""
    require("gnutls-serv")
    port = free_port()
    words = ["gnutls-serv", "--echo", "--quiet", "--disable-client-cert", f"--port={port}"]
    words += [f"--x509certfile={site.ec.chain}", f"--x509keyfile={site.ec.key}"]
    kernel = tls_stat()
    with Program([*words, *gnutls_options(_TLS13)]) as program:
        policy = KtlsPolicy(MODES[offload])
        with _stream(connect(program.dial(port), site.client(_TLS13), policy)) as stream:
            updates = _echo_with_updates(stream)
    assert _moved(kernel, tls_stat(), "TlsTxRekeyOk", "TlsDecryptError") == [updates, 0]


def _echo_with_updates(stream: TLSSocket) -> int:
    """Send lines, with KeyUpdates between them where that can be done; gives their number."""
    updates = 0
    for number in range(6):  # GnuTLS bears 8 KeyUpdates in a second
        line = b"line %d\n" % number
        stream.sendall(line)
        assert receive_exactly(stream, len(line)) == line
        if stream.offload is Offload.KERNEL and capabilities().rekey:
            stream.handoff.key_update(request=number % 2 == 0)
            updates += 1
        else:
            with pytest.raises(RekeyUnsupported):
                stream.handoff.key_update(request=number % 2 == 0)
    return updates


@by_carrier
@pytest.mark.parametrize("is_server", [True, False], ids=["python-server", "python-client"])
def test_python_follows(offload: Offload, *, is_server: bool, site: Site) -> None:
    """Python's ssl follows our KeyUpdates, and answers those that ask for it."""
    side = ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(side)
    if is_server:
        context.load_cert_chain(site.ec.chain, site.ec.key)
    else:
        context.load_verify_locations(site.authority)
    kernel = tls_stat()
    with listening() as listener:
        dialled = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        answered = accepted(listener)
    theirs, ours = (answered, dialled) if is_server else (dialled, answered)

    def echo() -> None:
        name = None if is_server else "localhost"
        with context.wrap_socket(theirs, server_side=is_server, server_hostname=name) as tls:
            while data := tls.recv(100):
                tls.sendall(data)

    peer = Endpoint(echo)
    policy = KtlsPolicy(MODES[offload])
    if is_server:
        handoff = connect(ours, site.client(_TLS13), policy)
    else:
        handoff = accept(ours, site.server(_TLS13), policy)
    with _stream(handoff) as stream:
        updates = _echo_with_updates(stream)
        stream.shutdown(socket.SHUT_WR)
        peer.result(PATIENCE)
    assert _moved(kernel, tls_stat(), "TlsTxRekeyOk", "TlsDecryptError") == [updates, 0]


@by_carrier
@pytest.mark.parametrize(
    ("peer", "command"),
    [
        ("openssl s_client", b"R\n"),
        ("openssl s_server", b"r\n"),
        ("openssl s_server", b"R\n"),
        ("gnutls-cli", b"^renegotiate^\n"),
    ],
)
def test_renegotiation_is_declined(offload: Offload, peer: str, command: bytes, site: Site) -> None:
    """Nobody gets TLS 1.2's renegotiation; all these peers end the connection for it."""
    with START[peer](_TLS12, site, offload) as talk:
        talk.down(b"down one\n")
        talk.up(b"up one\n")
        talk.command(command)
        with pytest.raises(PeerAlert) as raised:
            talk.stream.recv(1)
        fault = AlertDescription.internal_error  # so GnuTLS calls it
        assert raised.value.alert in {AlertDescription.handshake_failure, fault}
