"""Tests of waiting."""

from __future__ import annotations

from select import select
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.doubles import KERNEL, OFFLOADS, Lab, reset
from tlsify.codepoints import AlertDescription
from tlsify.integrations.waiting import is_ready
from tlsify.ktls.probe import capabilities
from tlsify.sslcontext.socket import SSLSocket
from tlsify.tls.messages import KeyUpdateRequest

if TYPE_CHECKING:
    from tlsify.config import KtlsPolicy

UPDATE = KeyUpdateRequest.update_not_requested
timeouts = pytest.mark.parametrize("timeout", [0, 60, None])


@pytest.mark.parametrize("policy", OFFLOADS)
@timeouts
def test_key_update_behind_data(lab: Lab, policy: KtlsPolicy, timeout: float | None) -> None:
    """It is served without waiting; then what comes is reported, and comes."""
    handed, peer = lab.server(policy)
    if policy is KERNEL and not capabilities().rekey:
        pytest.skip("this kernel cannot rekey")
    with SSLSocket.established(handed, cast("Any", None)) as sock:
        for _ in range(2):
            peer.sock.sendall(peer.data(b"request") + peer.key_update(UPDATE))
            sock.settimeout(60)
            assert sock.recv(100) == b"request"
            sock.settimeout(timeout)
            assert not is_ready(sock)
            peer.send_data(b"next")
            assert select([sock], [], [], 60)[0]
            sock.settimeout(60)
            assert sock.recv(100) == b"next"
            assert sock.gettimeout() == 60


@pytest.mark.ktls
@timeouts
@pytest.mark.parametrize("end", ["data", "close_notify", "alert", "reset"])
def test_what_is_next(lab: Lab, timeout: float | None, end: str) -> None:
    """Data is left where it is, and an end is found again by the next receive."""
    handed, peer = lab.server(KERNEL)
    with SSLSocket.established(handed, cast("Any", None)) as sock:
        sock.settimeout(timeout)
        assert not is_ready(sock)
        if end == "data":
            peer.send_data(b"next")
        elif end == "close_notify":
            peer.close_notify()
        elif end == "alert":
            peer.send_alert(AlertDescription.internal_error)
        else:
            reset(peer.sock)
        assert select([sock], [], [], 60)[0]
        assert is_ready(sock)
        if end == "data":
            assert sock.recv(100) == b"next"
        elif end == "close_notify":
            assert sock.recv(100) == b""
        else:
            with pytest.raises(OSError, match=r"internal_error|reset"):
                sock.recv(100)
