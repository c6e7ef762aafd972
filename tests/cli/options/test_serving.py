"""Tests of serving."""

from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.aio.acceptor import Limits
from tlsify.cli.options import server as server_options
from tlsify.cli.options import serving as serving_options
from tlsify.cli.parser import GlobalOptions
from tlsify.config import KtlsMode
from tlsify.errors import ConfigError, NetworkError
from tlsify.system import listening

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.serving.server import ServerPlan


def _parser(listen: str | None = "127.0.0.1:0") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    server_options.add_arguments(parser)
    serving_options.add_arguments(parser, listen=listen)
    return parser


def _plan(*words: str) -> ServerPlan:
    options = GlobalOptions(ktls="off")
    return serving_options.plan(
        _parser().parse_args(words), options, lambda: cast("Any", "service")
    )


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Any:
    before = descriptors()
    yield
    check_descriptors(before)


def test_defaults() -> None:
    """One worker at the default address, and no limits but that of handshakes."""
    plan = _plan()
    with plan.estate:
        (sock,) = plan.listeners
        assert sock.getsockname()[0] == "127.0.0.1"
        assert (plan.workers, plan.drain_seconds, plan.metrics) == (1, 30.0, None)
        assert plan.limits == Limits(None, 1000, None)
        assert plan.policy.mode is KtlsMode.OFF
        assert plan.account is None
        assert plan.service() == cast("Any", "service")
        assert not plan.estate.is_rehearsal


def test_everything_said(tmp_path: Path) -> None:
    """Each flag has its place in the plan."""
    words = ["--workers", "3", "--max-connections", "50", "--max-handshakes", "5"]
    words += ["--per-address", "7", "--drain", "1.5", "--metrics", f"unix:{tmp_path}/metrics"]
    with (plan := _plan(*words)).estate:
        assert plan.limits == Limits(50, 5, 7)
        assert (plan.workers, plan.drain_seconds) == (3, 1.5)
        assert plan.metrics is not None
        assert plan.metrics.family is socket.AF_UNIX
        assert set(plan.estate.sockets) >= {f"metrics unix:{tmp_path}/metrics"}


def test_several_addresses() -> None:
    """All of them are listened on, each once."""
    words = ("--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--listen", "127.0.0.1:0")
    with (plan := _plan(*words)).estate:
        assert [sock.family for sock in plan.listeners] == [socket.AF_INET, socket.AF_INET6]


def test_sockets_of_their_own() -> None:
    """With --reuse-port each worker has one, all at the same address."""
    with (plan := _plan("--workers", "3", "--reuse-port")).estate:
        assert len({sock.getsockname() for sock in plan.listeners}) == 1
        assert len(plan.listeners) == 3


@pytest.mark.parametrize(
    "words", [["--reuse-port", "--workers", "2"], ["--metrics", "127.0.0.1:1"]]
)
def test_address_that_is_taken(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was listened on before is closed."""
    real, calls = listening.listen, []

    def listen(*args: Any, **options: Any) -> socket.socket:
        calls.append(args)
        if len(calls) > 1:
            raise NetworkError("planted")
        return real(*args, **options)

    monkeypatch.setattr(listening, "listen", listen)
    with pytest.raises(NetworkError, match="planted"):
        _plan(*words)


@pytest.mark.parametrize(
    "words", [["--listen", "nonsense"], ["--metrics", "nonsense"], ["--listen", "[::1]"]]
)
def test_nonsense(words: list[str]) -> None:
    """It is refused."""
    with pytest.raises(ConfigError, match="is not ADDR:PORT"):
        _plan(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--max-connections", "0"],
        ["--max-handshakes", "-1"],
        ["--per-address", "x"],
        ["--drain", "0"],
        ["--workers", "0"],
    ],
)
def test_numbers_that_mean_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They are misuse."""
    with pytest.raises(SystemExit):
        _parser().parse_args(words)
    assert words[0] in capsys.readouterr().err


def test_sockets_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are served if no address is given."""
    given = listening.listen("127.0.0.1", 0)
    monkeypatch.setattr(listening, "inherited", lambda: [given])
    with (plan := _plan()).estate:
        assert plan.listeners == [given]
    assert given.fileno() == -1


def test_verb_with_its_own_addresses() -> None:
    """Where operands say where to listen, there is no flag."""
    with pytest.raises(SystemExit):
        _parser(None).parse_args(["--listen", "127.0.0.1:0"])
    given = _parser(None).parse_args([])
    given.listen = []
    with pytest.raises(ConfigError, match="nothing to listen on"):
        serving_options.plan(given, GlobalOptions(), lambda: cast("Any", "service"))
