"""Tests of outcome: replies of agents, and what looks like one."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import KEYED, RELAYED, Impostor, tcp
from tlsify import agent
from tlsify.agent import wire
from tlsify.errors import AgentError, ConfigError
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from tests.agent.harness import Files

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(
    ("message", "number", "error", "why"),
    [
        pytest.param(b"\1", None, AgentError, "malformed", id="malformed"),
        pytest.param(b"\2\x10", None, AgentError, "version 2", id="version"),
        pytest.param(b"x" * 2**17 + b"x", None, AgentError, "too many bytes", id="too-long"),
        pytest.param(RELAYED, None, AgentError, "do not fit", id="relay-without-descriptor"),
        pytest.param(KEYED, 0, AgentError, "do not fit", id="kernel-with-descriptor"),
        pytest.param(KEYED, None, ConfigError, "invalid session state", id="no-state"),
        pytest.param(b"\1\x12", None, AgentError, "no reason", id="failed-for-no-reason"),
        pytest.param(b"\1\x12", 0, AgentError, "no reason", id="failed-with-descriptor"),
        pytest.param(b"\1\x13", None, AgentError, "kind 19", id="end-before-reply"),
        pytest.param(
            wire.encode(wire.Relayed(code="c", sentence="s", suite=9)), 0, AgentError, "suite 9",
            id="suite",
        ),
    ],
)  # fmt: skip
def test_odd_reply(
    files: Files, message: bytes, number: int | None, error: type[Exception], why: str
) -> None:
    """Whatever an agent says, nothing is left open, and the connection is closed."""

    def answer(channel: socket.socket) -> None:
        with socket.socket() as extra:
            scm_rights.send(channel, message, None if number is None else extra.fileno())

    impostor = Impostor(answer)
    with tcp() as (ours, theirs):
        with pytest.raises(error, match=why) as caught:
            agent.connect(impostor.place, ours, files.request())
        assert not getattr(caught.value, "untouched", False)
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""
    impostor.join()
