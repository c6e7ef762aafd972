"""Tests of custodian."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import issue
from tests.doubles import RELAY, Endpoint, descriptors, until
from tlsify.config import ServerConfig
from tlsify.connection.establish import accept, connect
from tlsify.errors import ConfigError, TlsifyError, WorkerError
from tlsify.isolation import custodian

if TYPE_CHECKING:
    from collections.abc import Callable

    import trustme

    from tests.doubles import Lab
    from tests.isolation.conftest import Keys
    from tlsify.isolation.remote_engine import IsolatedServer

    Isolate = Callable[..., Keys]


def children(pid: int) -> set[int]:
    """Return the processes that a process has forked."""
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def works(lab: Lab, config: IsolatedServer) -> bool:
    """Return whether a handshake goes well."""
    client, _ = lab.configs()
    ours, theirs = lab.tcp()
    other = Endpoint(lambda: accept(theirs, config, RELAY))
    try:
        lab.keep(connect(ours, client, RELAY))
    except (TlsifyError, OSError):
        with pytest.raises((TlsifyError, OSError)):
            other.result()
        return False
    lab.keep(other.result())
    return True


def test_what_is_known_outside(isolate: Isolate, authority: trustme.CA, tmp_path: Path) -> None:
    """Names, times and settings, and no key."""
    config = ServerConfig(
        key_pair=issue(authority, "a.example"),
        more_key_pairs=(issue(authority, "b.example"),),
        alpn=(b"h2",),
        timeout=7.5,
        key_log=tmp_path / "log",
    )
    found = isolate(lambda: config).load()
    assert [pair.names for pair in (found.key_pair, *found.more_key_pairs)] == [
        ("a.example",),
        ("b.example",),
    ]
    assert found.key_pair.chain == config.key_pair.chain
    assert found.key_pair.not_after == config.key_pair.not_after
    assert (found.alpn, found.timeout, found.key_log) == ((b"h2",), 7.5, config.key_log)
    assert found.choices == (config.aeads,)
    assert repr(found.key_pair) == repr(config.key_pair)


def test_configuration_that_is_refused(isolate: Isolate, lab: Lab) -> None:
    """The error is the custodian's; holders of the one before go on."""
    _, config = lab.configs()
    answers: list[Callable[[], ServerConfig]] = [lambda: config]

    def load() -> ServerConfig:  # each call is one in the custodian, whose copy of the list this is
        return answers.pop()() if answers else _refuse()

    keys = isolate(load)
    first = keys.load()
    with pytest.raises(ConfigError, match="that key is none") as caught:
        keys.load()
    assert caught.value.hint == "take another"
    assert works(lab, first)
    assert keys.custody.deaths() == 0


def _refuse() -> ServerConfig:
    raise ConfigError("that key is none", hint="take another")


def test_bug_while_keys_are_read(isolate: Isolate) -> None:
    """It is told as one, and the custodian lives."""
    keys = isolate(lambda: dict[str, ServerConfig]()["nothing"])
    for _ in range(2):
        with pytest.raises(TlsifyError, match="unexpected KeyError while keys were read"):
            keys.load()
    assert keys.custody.deaths() == 0


def test_holder_that_dies(isolate: Isolate, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced, and new handshakes go on, with the same configuration."""
    monkeypatch.setattr(custodian, "_PROMPT", 0.0)
    _, config = lab.configs()
    keys = isolate(lambda: config)
    isolated, keeper = keys.load(), keys.custody.pid
    (holder,) = children(keeper)
    os.kill(holder, signal.SIGKILL)
    until(lambda: children(keeper) - {holder})
    assert works(lab, isolated)


def test_custodian_that_dies(isolate: Isolate, lab: Lab) -> None:
    """Its holders go on; the next load has another one."""
    _, config = lab.configs()
    keys = isolate(lambda: config, RELAY, 2)
    first, keeper = keys.load(), keys.custody.pid
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
    until(lambda: keys.custody.deaths() == 1)
    assert works(lab, first)
    second = keys.load()
    assert keys.custody.deaths() == 1
    assert works(lab, second)
    assert keys.custody.pid != keeper


def test_chain_that_is_too_long(
    isolate: Isolate, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and the custodian lives."""
    _, config = lab.configs()
    monkeypatch.setattr(custodian, "MAX_MESSAGE", 100)
    keys = isolate(lambda: config)
    with pytest.raises(ConfigError, match="too long"):
        keys.load()
    assert keys.custody.deaths() == 0


def test_custodian_that_cannot_start(isolate: Isolate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so; it is tried again the next time."""

    def fail(*_: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(custodian, "_allow_descriptors", fail)
    keys = isolate(lambda: None)
    with pytest.raises(WorkerError, match="the process that reads the keys has ended"):
        keys.load()
    assert keys.custody.deaths() == 1


def test_descriptors_that_are_let_go(isolate: Isolate, lab: Lab) -> None:
    """Neither custodian nor holder keeps what the server has open, such as its sockets."""
    _, config = lab.configs()
    listener, _ = lab.tcp()
    inode = os.stat(listener.fileno()).st_ino
    keys = isolate(lambda: config)
    keys.load()
    (holder,) = children(keys.custody.pid)
    for pid in (keys.custody.pid, holder):
        held = descriptors(pid)
        assert held
        assert not [each for each in held if each.endswith(f" socket:[{inode}]")]
