"""Tests of answers; those of a connection are in test_object and test_socket."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tlsify.sslcontext.answers import Answers
from tlsify.sslcontext.object import SSLObject
from tlsify.sslcontext.socket import SSLSocket
from tlsify.sslcontext.transport_object import TransportSSLObject

if TYPE_CHECKING:
    from tlsify.sslcontext.facts import TLSInfo


class _Before(Answers):
    """A connection whose handshake is not finished."""

    def _outcome(self) -> TLSInfo | None:
        return None


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        (SSLObject, ssl.SSLObject),
        (TransportSSLObject, ssl.SSLObject),
        (SSLSocket, ssl.SSLSocket),
    ],
)
def test_nothing_is_lacking(kind: type, theirs: type) -> None:
    """Each name that this Python's class has is ours, and not only inherited from it."""
    own = {name for part in kind.__mro__ if part is not theirs for name in vars(part)}
    # What a socket's constructor sets.
    own |= {"context"} if theirs is ssl.SSLSocket else set()
    assert {name for name in dir(theirs) if not name.startswith("_")} <= own


def test_before_the_handshake() -> None:
    """There is nothing to tell, as `ssl` says it."""
    before = _Before()
    names = (
        *("version", "cipher", "selected_alpn_protocol", "compression", "group"),
        *("selected_npn_protocol", "shared_ciphers"),
    )
    assert [getattr(before, name)() for name in names] == [None] * len(names)
    assert before.session is before.ktls is None
    assert before.session_reused is False
    with pytest.raises(ValueError, match="handshake not done yet"):
        before.getpeercert()


def test_refused() -> None:
    """What tlsify does not have is an error that says so."""
    before = _Before()
    with pytest.raises(NotImplementedError, match="resumption"):
        before.session = None
    with pytest.raises(ValueError, match="tls-unique"):
        before.get_channel_binding()
    with pytest.raises(NotImplementedError, match="post-handshake"):
        before.verify_client_post_handshake()
