"""Tests of descriptor."""

from __future__ import annotations

import gc
import socket
from typing import TYPE_CHECKING

import pytest

from tests.doubles import OFFLOADS, Endpoint, Lab, RawPeer
from tlsify.connection.establish import connect
from tlsify.connection.stream import TLSSocket

if TYPE_CHECKING:
    from tlsify.config import KtlsPolicy

both = pytest.mark.parametrize("policy", OFFLOADS)


@both
@pytest.mark.parametrize("how", ["plain", "cycle", "error"])
def test_dropped(lab: Lab, policy: KtlsPolicy, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The last reference closes, without close_notify; a cycle's end does when it is collected.

    It does so, too, where the warning is an error (-W error).
    """
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(theirs, server))
    handoff = connect(ours, client, policy)
    streams, peer = [TLSSocket(handoff)], other.result()
    if how == "cycle":
        vars(streams[0])["itself"] = streams
    streams[0].sendall(b"sent")

    def drop() -> None:
        nonlocal streams
        streams = []
        if how == "cycle":
            gc.collect()

    if how == "error":
        raised: list[type[BaseException]] = []
        monkeypatch.setattr("sys.unraisablehook", lambda error: raised.append(error.exc_type))
        drop()
        assert raised == [ResourceWarning]
    else:
        with pytest.warns(ResourceWarning, match="unclosed"):
            drop()
    assert handoff.sock.fileno() == -1
    with theirs:
        assert peer.recv_data(4) == b"sent"
        assert peer.recv() is None
    handoff.close()


@both
def test_detached(lab: Lab, policy: KtlsPolicy) -> None:
    """Who detaches the descriptor has it alone."""
    ours, theirs = lab.tcp()
    client, server = lab.configs()
    other = Endpoint(lambda: RawPeer(theirs, server))
    handoff = connect(ours, client, policy)
    stream = TLSSocket(handoff)
    other.result()
    number = stream.detach()
    assert stream.fileno() == handoff.sock.fileno() == -1
    stream.close()
    del stream
    with socket.socket(fileno=number) as sock:
        sock.sendall(b"still open")
    handoff.close()
