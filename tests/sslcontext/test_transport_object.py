"""Tests of transport_object; what transports give is tested in tests/aio."""

from __future__ import annotations

import ssl

import pytest

from tests.certificate_samples import SAMPLES, facts_of, make_certificate
from tlsify.sslcontext.transport_object import TransportSSLObject


def test_description() -> None:
    """It describes; whoever would read or write past the transport is refused."""
    facts = facts_of(make_certificate(*SAMPLES["plain"]))
    described = TransportSSLObject(facts, None, server_side=True)
    assert isinstance(described, ssl.SSLObject)
    assert (described.context, described.server_side) == (None, True)
    assert described.server_hostname == facts.server_hostname
    assert described.getpeercert() == facts.getpeercert()
    assert described.ktls == facts.ktls
    described.do_handshake()
    assert described.pending() == 0
    for name, arguments in (("read", ()), ("write", (b"x",)), ("unwrap", ())):
        with pytest.raises(NotImplementedError, match="transport"):
            getattr(described, name)(*arguments)
