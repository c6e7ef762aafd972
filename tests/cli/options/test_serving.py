"""Tests of serving."""

from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.aio.limits import MOST_HANDSHAKES, Limits
from tlsify.cli.options import server as server_options
from tlsify.cli.options import serving as serving_options
from tlsify.cli.parser import GlobalOptions
from tlsify.config import KtlsMode
from tlsify.errors import NetworkError, UsageError
from tlsify.system import listening

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.serving.plan import ServerPlan

_ANY = "0.0.0.0"


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
        assert (plan.workers, plan.drain_seconds, list(plan.metrics)) == (1, 30.0, [])
        assert plan.limits == Limits(None, MOST_HANDSHAKES, None)
        assert plan.policy.mode is KtlsMode.OFF
        assert plan.account is None
        assert plan.provide() == cast("Any", "service")
        assert not plan.estate.is_rehearsal


def test_everything_said(tmp_path: Path) -> None:
    """Each flag has its place in the plan."""
    words = ["--workers", "3", "--max-connections", "50", "--max-handshakes", "5"]
    words += ["--per-address", "7", "--drain", "1.5", "--metrics", f"unix:{tmp_path}/metrics"]
    with (plan := _plan(*words)).estate:
        assert plan.limits == Limits(50, 5, 7)
        assert (plan.workers, plan.drain_seconds) == (3, 1.5)
        assert [sock.family for sock in plan.metrics] == [socket.AF_UNIX]
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


def test_every_interface() -> None:
    """A port alone is that of IPv4 and of IPv6, for metrics, too."""
    with (plan := _plan("--listen", ":0", "--metrics", ":0", "--reuse-port", "--workers=2")).estate:
        names = [sock.getsockname()[:2] for sock in plan.listeners]
        port = names[0][1]
        assert names == [(_ANY, port)] * 2 + [("::", port)] * 2
        assert [sock.getsockname()[0] for sock in plan.metrics] == [_ANY, "::"]


def test_no_address_at_all() -> None:
    """Without a default there has to be one."""
    given = _parser(None).parse_args([])
    with pytest.raises(UsageError, match="no address to listen on"):
        serving_options.plan(given, GlobalOptions(), lambda: cast("Any", "service"))
