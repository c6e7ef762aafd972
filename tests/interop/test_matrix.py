"""Tests of every suite with every peer."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.interop.carriers import CARRIERS, MODES
from tests.interop.matrix import CELLS, LEFT_OUT, Cell
from tests.interop.peers import START
from tests.interop.programs import TIMEOUT, require
from tlsify.config import KtlsPolicy
from tlsify.connection.establish import accept, connect
from tlsify.connection.handoff import Offload
from tlsify.connection.stream import TLSSocket
from tlsify.ktls.diag import UlpInfo, socket_info, tls_stat

if TYPE_CHECKING:
    import socket

    from _pytest.mark import ParameterSet

    from tests.interop.conftest import Results
    from tests.interop.peers import Site
    from tlsify.codepoints import CipherSuite
    from tlsify.connection.handoff import Handoff

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

# A connection of ours counts once in each direction. The peers protect their records themselves:
# all of them link a library that could use kTLS, but none does so unless it is told to.
_ONE_SOCKET = {
    **dict.fromkeys(("TlsTxSw", "TlsRxSw"), 1),
    **dict.fromkeys(("TlsTxDevice", "TlsRxDevice", "TlsDecryptError"), 0),
}


def _parameter(cell: Cell) -> ParameterSet:
    """Return a cell as a parameter; each kernel has every suite, and one program on either side."""
    marks = [pytest.mark.each_kernel] if cell.peer.program == "openssl" else []
    return pytest.param(cell, id=str(cell), marks=marks)


@pytest.mark.parametrize("offload", CARRIERS)
@pytest.mark.parametrize("cell", [_parameter(cell) for cell in CELLS])
def test_files_go_both_ways(offload: Offload, cell: Cell, site: Site, results: Results) -> None:
    """A file of each side reaches the other unchanged, under the suite and by the carrier meant."""
    if cell.peer.program is not None:
        require(cell.peer.program)
    before = tls_stat()
    with START[cell.peer](cell.suite, site) as talk:
        stream = TLSSocket(_shake_hands(cell, talk.sock, site, KtlsPolicy(MODES[offload])))
        with stream:
            assert stream.offload is offload
            assert stream.handoff.negotiated.suite is cell.suite
            received = talk.converse(stream, site.up, len(talk.expected))
            if offload is Offload.KERNEL:
                _check_kernel(stream, cell.suite, before)
            stream.unwrap()
        delivered = talk.delivered()
    assert _digest(received) == _digest(talk.expected)
    assert _digest(delivered) == _digest(site.up)
    results.passed[offload].add(cell)


def _shake_hands(cell: Cell, sock: socket.socket, site: Site, policy: KtlsPolicy) -> Handoff:
    """Play the role that the peer leaves, offering nothing but the cell's suite."""
    if cell.peer.is_server:
        return connect(sock, site.client(cell.suite), policy)
    return accept(sock, site.server(cell.suite), policy)


def _check_kernel(stream: TLSSocket, suite: CipherSuite, before: dict[str, int]) -> None:
    """The kernel itself says that it does the work, for one socket more than before."""
    expected = UlpInfo("tls", suite.version, suite.aead, tx="kernel", rx="kernel")
    assert socket_info(stream).ulp == expected
    now = tls_stat()
    moved = {name: now[name] - before.get(name, 0) for name in _ONE_SOCKET}
    assert moved == _ONE_SOCKET


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_left_out_is_still_impossible() -> None:
    """Python's ssl cannot choose TLS 1.3 suites yet; once it can, its cells are to be filled."""
    assert {peer.program for peer, _ in LEFT_OUT} == {None}
    assert not hasattr(ssl.SSLContext, "set_ciphersuites")
