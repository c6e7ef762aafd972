"""Tests of where records begin and end: single bytes, one segment, every split, all sizes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.interop.carriers import CARRIERS, MODES
from tests.interop.programs import TIMEOUT
from tests.interop.raw import Manner, RawPeer, hand_over, receive, settle
from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.config import KtlsPolicy
from tlsify.connection.handoff import Offload
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import loopback_pair
from tlsify.tls.record import MAX_PLAINTEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.interop.peers import Site
    from tlsify.connection.stream import TLSSocket

pytestmark = [pytest.mark.each_kernel, pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_SUITES = [
    CipherSuite.TLS_AES_128_GCM_SHA256,
    CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
]
# The kernel cares for version and cipher, not for how keys were exchanged.
_PROTECTIONS = [suite for suite in CipherSuite if "_RSA_" not in suite.name]
_EARLY = b"early"
_PLAIN = Manner()
# Header, explicit nonce, payload, content type, tag.
_DATA_RECORD = {
    ProtocolVersion.TLSv1_3: 5 + len(_EARLY) + 1 + 16,
    ProtocolVersion.TLSv1_2: 5 + 8 + len(_EARLY) + 16,
}
# How far before the end of Finished the splits begin.
_MARGIN = 6

by_carrier = pytest.mark.parametrize("offload", CARRIERS)
by_role = pytest.mark.parametrize("peer_is_client", [True, False], ids=["server", "client"])
by_version = pytest.mark.parametrize("suite", _SUITES, ids=lambda suite: suite.version.label)


class Meeting:
    """tlsify and a raw peer, over one connection."""

    def __init__(self, stream: TLSSocket, peer: RawPeer) -> None:
        """Store both ends."""
        self.stream, self.peer = stream, peer

    def receive(self, count: int) -> bytes:
        """Receive on tlsify's end."""
        return receive(self.stream, self.peer, count)

    def send(self, data: bytes) -> None:
        """Send from tlsify's end, and let the peer take it."""
        expected = sum(map(len, self.peer.data)) + len(data)
        self.stream.sendall(data)
        settle(self.peer, lambda: sum(map(len, self.peer.data)) >= expected)

    def part(self) -> None:
        """Close in good order, the peer first."""
        self.peer.close()
        assert self.receive(1) == b""
        self.stream.close()
        settle(self.peer, lambda: self.peer.is_closed)


@contextmanager
def meeting(
    site: Site,
    suite: CipherSuite,
    offload: Offload,
    manner: Manner = _PLAIN,
    *,
    peer_is_client: bool,
) -> Iterator[Meeting]:
    """Connect tlsify and a raw peer; no record of theirs may fail to open."""
    configs = site.client(suite), site.server(suite)
    their_config, our_config = configs if peer_is_client else configs[::-1]
    before = tls_stat()
    with loopback_pair() as (ours, theirs):
        peer = RawPeer(theirs, their_config, suite, manner)
        with hand_over(ours, our_config, KtlsPolicy(MODES[offload]), peer) as stream:
            assert stream.offload is offload
            yield Meeting(stream, peer)
    assert tls_stat().get("TlsDecryptError") == before.get("TlsDecryptError")


def _byte_by_byte(flight: bytes) -> Iterable[bytes]:
    return (flight[i : i + 1] for i in range(len(flight)))


@by_carrier
@by_role
@by_version
def test_bytes_may_come_one_at_a_time(
    site: Site, suite: CipherSuite, offload: Offload, *, peer_is_client: bool
) -> None:
    """A peer whose every byte comes by itself, from the first flight to close_notify, is served."""
    manner = Manner(cut=_byte_by_byte)
    with meeting(site, suite, offload, manner, peer_is_client=peer_is_client) as met:
        met.peer.send(b"ping")
        assert met.receive(4) == b"ping"
        met.send(b"pong")
        assert met.peer.data == [b"pong"]
        met.part()


@by_carrier
@by_role
@by_version
def test_data_may_share_a_segment_with_finished(
    site: Site, suite: CipherSuite, offload: Offload, *, peer_is_client: bool
) -> None:
    """Data that comes in one segment with the peer's Finished is neither lost nor read too soon."""
    manner = Manner(early=_EARLY)
    with meeting(site, suite, offload, manner, peer_is_client=peer_is_client) as met:
        assert met.receive(len(_EARLY)) == _EARLY
        met.send(b"reply")
        met.part()


@pytest.mark.heavy
@by_carrier
@by_role
@by_version
def test_data_may_be_split_from_finished_anywhere(
    site: Site, suite: CipherSuite, offload: Offload, *, peer_is_client: bool
) -> None:
    """Wherever the segment with Finished and data is cut in two, the data arrives."""
    for held_back in range(1, _DATA_RECORD[suite.version] + _MARGIN):
        manner = Manner(early=_EARLY, held_back=held_back)
        with meeting(site, suite, offload, manner, peer_is_client=peer_is_client) as met:
            assert met.receive(len(_EARLY)) == _EARLY, f"cut {held_back} bytes before the end"
            met.send(b"reply")
            met.part()


@by_carrier
@by_role
@by_version
def test_a_peer_that_has_closed_and_gone_is_no_error(
    site: Site, suite: CipherSuite, offload: Offload, *, peer_is_client: bool
) -> None:
    """Closing after a peer that has said close_notify and left raises nothing."""
    with meeting(site, suite, offload, peer_is_client=peer_is_client) as met:
        met.peer.close()
        assert met.receive(1) == b""
        met.peer.sock.close()
        met.stream.unwrap()


@by_carrier
@pytest.mark.parametrize("suite", _PROTECTIONS, ids=lambda suite: suite.name)
def test_smallest_and_largest_records_pass(
    site: Site, suite: CipherSuite, offload: Offload
) -> None:
    """Records of 1 and of 2**14 bytes are received, and sent as large as they are written."""
    smallest, largest = b"s", b"l" * MAX_PLAINTEXT
    with meeting(site, suite, offload, peer_is_client=True) as met:
        met.peer.send(smallest, largest, smallest)
        assert met.receive(MAX_PLAINTEXT + 2) == smallest + largest + smallest
        met.send(smallest)
        met.send(largest)
        met.send(smallest)
        assert met.peer.data == [smallest, largest, smallest]
        if offload is Offload.KERNEL:
            first = 0 if suite.version is ProtocolVersion.TLSv1_3 else 1
            for direction in Direction:
                assert ulp.next_seq(met.stream, direction, suite.aead) == first + 3
        met.part()
