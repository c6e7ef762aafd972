"""Tests of greetings: every protocol has one, needs none, or is refused."""

from __future__ import annotations

import pytest

from tests.conversations import CONVERSATIONS
from tlsify.starttls.greetings import greeting, refusal
from tlsify.starttls.upgrade import PROTOCOLS

# Its server says what it can do again inside TLS (RFC 5804 2.2).
SAYS_IT_AGAIN = {"sieve"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol(protocol: str) -> None:
    """Where the server speaks first a client waits for that; it gets no word of the server's."""
    question, answer = CONVERSATIONS[protocol][0]
    speaks_first = not question and bool(answer)
    given = greeting(protocol)
    assert bool(given) is (
        speaks_first and refusal(protocol) is None and protocol not in SAYS_IT_AGAIN
    )
    assert not given or given.endswith(b"\r\n")
