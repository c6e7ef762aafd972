"""Tests of what only openssl's own programs offer: tickets, short fragments, resumption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.carriers import CARRIERS, MODES
from tests.interop.matrix import openssl_options
from tests.interop.peers import (
    CHUNK,
    LISTENING,
    accepted,
    address,
    listening,
    openssl_trust,
    swap_files,
)
from tests.interop.programs import TIMEOUT, Program, require
from tests.ports import free_port
from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.connection.establish import accept, connect
from tlsify.connection.handoff import Offload
from tlsify.connection.stream import TLSSocket
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities
from tlsify.metrics.counters import counters

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.interop.peers import Site

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_TLS13 = CipherSuite.TLS_AES_128_GCM_SHA256
_SUITES = [_TLS13, CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
_FRAGMENT = 512
_RECONNECTIONS = 5

by_carrier = pytest.mark.parametrize("offload", CARRIERS)
by_version = pytest.mark.parametrize("suite", _SUITES, ids=lambda suite: suite.version.label)


@pytest.fixture(autouse=True)
def _openssl() -> None:
    require("openssl")


@by_carrier
@pytest.mark.parametrize("tickets", [0, 1, 2, 4])
def test_tickets_in_front_of_the_data_are_no_obstacle(
    offload: Offload, tickets: int, site: Site
) -> None:
    """However many tickets a server sends, a client gets the data behind them."""
    port, before = free_port(), tls_stat()
    words = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-naccept", "1", "-quiet"]
    words += ["-cert", str(site.ec.chain), "-key", str(site.ec.key)]
    words += ["-num_tickets", str(tickets), *openssl_options(_TLS13)]
    with Program(words, site.down) as server:
        before_it = counters()["ticket_received"]
        handed = connect(server.dial(port), site.client(_TLS13), KtlsPolicy(MODES[offload]))
        with TLSSocket(handed) as stream:
            assert swap_files(stream, site.up, len(site.down)) == site.down
            if handed.channel is not None:
                assert counters()["ticket_received"] - before_it == tickets
            stream.unwrap()
        assert server.output() == site.up
    assert tls_stat().get("TlsDecryptError") == before.get("TlsDecryptError")


@by_carrier
@by_version
def test_a_client_that_wants_short_records_gets_them(
    offload: Offload, suite: CipherSuite, site: Site
) -> None:
    """max_fragment_length is kept to: by the kernel where it can be told, else by the relay."""
    wanted = KtlsMode.AUTO if offload is Offload.KERNEL else KtlsMode.OFF
    with (
        listening() as listener,
        _client(listener, site, "-quiet", "-maxfraglen", str(_FRAGMENT), feed=site.down) as client,
        TLSSocket(accept(accepted(listener), site.server(suite), KtlsPolicy(wanted))) as stream,
    ):
        assert stream.handoff.negotiated.max_fragment_length == _FRAGMENT
        # s_client refuses a record that is longer.
        assert swap_files(stream, site.up, len(site.down)) == site.down
        if wanted is KtlsMode.AUTO and capabilities().payload_limit:
            assert stream.offload is Offload.KERNEL
            first = 0 if suite.version is ProtocolVersion.TLSv1_3 else 1
            records = ulp.next_seq(stream, Direction.TX, suite.aead) - first
            assert records == -(-len(site.up) // _FRAGMENT)
        else:
            assert stream.handoff.reason is not None
            expected = "policy-off" if wanted is KtlsMode.OFF else "max-fragment-length"
            assert stream.handoff.reason.code == expected
        stream.unwrap()
        assert client.output() == site.up


@by_carrier
@by_version
def test_a_client_that_reconnects_is_never_resumed(
    offload: Offload, suite: CipherSuite, site: Site
) -> None:
    """A client that comes back with what it remembers gets a full handshake each time."""
    with listening() as listener, _client(listener, site, "-reconnect") as client:
        for connection in range(1 + _RECONNECTIONS):
            if connection == _RECONNECTIONS:
                client.close_input()
            _serve_once(listener, suite, site, offload)
        said = client.output()
    assert said.count(b"New, TLSv") == 1 + _RECONNECTIONS
    assert b"Reused, " not in said


@by_carrier
@by_version
def test_what_a_client_keeps_is_not_resumed(
    offload: Offload, suite: CipherSuite, site: Site, tmp_path: Path
) -> None:
    """A client that saves its session has nothing, or over the relay nothing that is resumed."""
    kept = tmp_path / "session.pem"
    with listening() as listener, _client(listener, site, "-sess_out", str(kept)) as client:
        policy = KtlsPolicy(MODES[offload])
        with TLSSocket(accept(accepted(listener), site.server(suite), policy)) as stream:
            # What lies in front of the data has been seen once the data has.
            stream.sendall(b"data\n")
            client.wait_for(rb"(?m)^data$")
            client.close_input()
            assert stream.recv(CHUNK) == b""
        client.output()
    # There the engine's own tickets have to go out, for TLS 1.3 numbers them with the records.
    sends_tickets = offload is Offload.RELAY and suite.version is ProtocolVersion.TLSv1_3
    assert kept.exists() == sends_tickets
    if sends_tickets:
        assert b"New, TLSv" in _offer_session(kept, suite, site, offload)


@by_carrier
@by_version
def test_a_foreign_session_is_declined(
    offload: Offload, suite: CipherSuite, site: Site, tmp_path: Path
) -> None:
    """A client that offers another server's session gets a full handshake instead of an error."""
    kept = _keep_session(suite, site, tmp_path)
    said = _offer_session(kept, suite, site, offload)
    assert b"New, TLSv" in said
    assert b"Reused, " not in said


def _offer_session(kept: Path, suite: CipherSuite, site: Site, offload: Offload) -> bytes:
    """Offer a saved session of ``openssl s_client`` to tlsify; return its report."""
    with listening() as listener, _client(listener, site, "-sess_in", str(kept)) as client:
        client.close_input()
        _serve_once(listener, suite, site, offload)
        return client.output()


def _keep_session(suite: CipherSuite, site: Site, folder: Path) -> Path:
    """Save a session between ``openssl s_client`` and ``openssl s_server``."""
    kept = folder / "session.pem"
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1"]
    words += ["-cert", str(site.ec.chain), "-key", str(site.ec.key), *openssl_options(suite)]
    # Data comes behind the tickets, so a client that has got it has got them.
    with Program(words, b"data\n") as server:
        said = server.wait_for(LISTENING)
        words = ["openssl", "s_client", "-connect", said[1].decode(), *openssl_trust(site)]
        with Program([*words, "-sess_out", str(kept)]) as client:
            client.wait_for(rb"(?m)^data$")
            client.close_input()
            client.output()
    return kept


def _client(listener: socket.socket, site: Site, *options: str, feed: bytes = b"") -> Program:
    words = ["openssl", "s_client", "-connect", address(listener), *openssl_trust(site)]
    return Program([*words, *options], feed)


def _serve_once(listener: socket.socket, suite: CipherSuite, site: Site, offload: Offload) -> None:
    """Serve one connection to its end."""
    handed = accept(accepted(listener), site.server(suite), KtlsPolicy(MODES[offload]))
    with TLSSocket(handed) as stream:
        assert stream.offload is offload
        assert not handed.negotiated.resumed
        while stream.recv(CHUNK):
            pass
