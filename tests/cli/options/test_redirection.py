"""Tests of redirection: its addresses and ports, and options that do not go together."""

from __future__ import annotations

import argparse
import socket

import pytest

from tlsify.cli.options import redirection
from tlsify.errors import UsageError
from tlsify.serving.reexec import Inherited


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    redirection.add_arguments(parser.add_argument_group())
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "is_redirecting"), [((), False), (("--redirect-http",), True)], ids=["not", "here"]
)
def test_no_other_port(words: list[str], *, is_redirecting: bool) -> None:
    """Without an address it is about the port for TLS alone."""
    arguments = _parse(*words)
    told = redirection.stranger(arguments)(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 301 " if is_redirecting else b"HTTP/1.1 400 ")
    with Inherited() as estate:
        assert redirection.listen(arguments, estate, []).listeners == ()


@pytest.mark.parametrize(
    ("more", "is_tcp", "port"),
    [((), True, None), ((), False, 443), (("--redirect-port=https",), True, 443)],
    ids=["that-of-tls", "no-tcp", "named"],
)
def test_port(more: list[str], port: int | None, *, is_tcp: bool) -> None:
    """It is that of the first address with TLS, or the one that is named."""
    with (
        Inherited() as estate,
        socket.create_server(("127.0.0.1", 0)) as tls,
        socket.socket(socket.AF_UNIX) as local,
    ):
        listeners = [local, tls] if is_tcp else [local]
        plan = redirection.listen(_parse("--redirect-http=127.0.0.1:0", *more), estate, listeners)
        assert plan.port == (port or tls.getsockname()[1])
        assert [sock.getsockname()[0] for sock in plan.listeners] == ["127.0.0.1"]
        assert list(estate.sockets) == ["plain HTTP 127.0.0.1:0"]


@pytest.mark.parametrize("words", [(), ("--redirect-http",)])
def test_port_of_no_redirection(words: list[str]) -> None:
    """Clients on the port for TLS know its number themselves."""
    with pytest.raises(UsageError, match="from another port"):
        redirection.check(_parse(*words, "--redirect-port=443"))
