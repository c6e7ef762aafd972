"""Tests of pump; test_connect has what stdin and stdout do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.doubles import OFFLOADS, RELAY, Endpoint, Lab
from tlsify.cli.pump import pump
from tlsify.config import ClosePolicy
from tlsify.errors import Truncated

if TYPE_CHECKING:
    from tlsify.config import KtlsPolicy

each_offload = pytest.mark.parametrize("policy", OFFLOADS)


class Pipes:
    """A pump between two pipes."""

    def __init__(self, lab: Lab, policy: KtlsPolicy, *, is_server: bool) -> None:
        """Start it."""
        make = lab.server if is_server else lab.client
        handoff, self.peer = make(policy)
        source, self.into = os.pipe()
        self.out, sink = os.pipe()
        self._source = source

        def carry() -> None:
            try:
                pump(handoff, ClosePolicy.STRICT, source, sink, is_server=is_server)
            finally:
                if not is_server:
                    os.close(sink)

        self.carrier = Endpoint(carry)

    def close(self) -> None:
        """Close what is left."""
        for number in (self._source, self.out):
            os.close(number)


@each_offload
def test_answer_after_the_question_has_ended(lab: Lab, policy: KtlsPolicy) -> None:
    """A server's side goes on sending to a client that has closed."""
    pipes = Pipes(lab, policy, is_server=True)
    pipes.peer.send_data(b"question")
    assert os.read(pipes.out, 100) == b"question"
    pipes.peer.close_notify()
    assert os.read(pipes.out, 100) == b""
    os.write(pipes.into, b"answer")
    assert pipes.peer.recv_data(6) == b"answer"
    os.close(pipes.into)
    pipes.carrier.result()
    pipes.close()


@each_offload
def test_client_ends_with_its_server(lab: Lab, policy: KtlsPolicy) -> None:
    """Nobody waits for more input that nobody would take."""
    pipes = Pipes(lab, policy, is_server=False)
    pipes.peer.send_data(b"goodbye")
    pipes.peer.close_notify()
    pipes.carrier.result()
    assert os.read(pipes.out, 100) == b"goodbye"
    os.close(pipes.into)
    pipes.close()


@each_offload
def test_truncation(lab: Lab, policy: KtlsPolicy) -> None:
    """What came is written, and the error raised."""
    pipes = Pipes(lab, policy, is_server=False)
    pipes.peer.send_data(b"part")
    pipes.peer.sock.close()
    with pytest.raises(Truncated):
        pipes.carrier.result()
    assert os.read(pipes.out, 100) == b"part"
    os.close(pipes.into)
    pipes.close()


def test_reader_that_is_gone(lab: Lab) -> None:
    """The error says which descriptor failed."""
    pipes = Pipes(lab, RELAY, is_server=False)
    os.close(pipes.out)
    pipes.peer.send_data(b"for nobody")
    with pytest.raises(BrokenPipeError) as raised:
        pipes.carrier.result()
    assert str(raised.value.filename).startswith("descriptor ")
    os.close(pipes.into)
    os.close(pipes._source)
