"""Tests of configuration; tests of a whole server with isolated keys are in test_server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.doubles import RELAY
from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
from tlsify.connection.setup import eligibility
from tlsify.errors import ConfigError, KtlsUnavailable
from tlsify.isolation.custody import Custody, Isolated
from tlsify.serving.configuration import Configuration, Isolation, leave_holders, retire
from tlsify.system.sandbox import Sandboxing

if TYPE_CHECKING:
    from pathlib import Path

    from tlsify.credentials.key_pair import KeyPair

_HERE = Isolation(tuple, (), 1, Sandboxing.OFF, None)


def test_keys_in_this_process(key_pair: KeyPair) -> None:
    """Without isolation there is no custodian to lose, and nothing to leave."""
    configuration = Configuration(lambda: ServerConfig(key_pair=key_pair), RELAY)
    config = configuration.load()
    assert config.key_pair is key_pair
    assert configuration.losses() == 0
    retire(config)
    leave_holders(of_others_than=config)


def test_refusal(key_pair: KeyPair) -> None:
    """What is wrong with the files is raised as it is."""
    answers = [ServerConfig(key_pair=key_pair)]

    def load() -> ServerConfig:
        if not answers:
            raise ConfigError("no key")
        return answers.pop()

    configuration = Configuration(load, RELAY)
    configuration.load()
    with pytest.raises(ConfigError, match="no key"):
        configuration.load()


def test_kernel_that_is_required(key_pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is raised once the configuration is known to be good."""
    monkeypatch.setenv(eligibility.KILL_SWITCH, "off")
    policy = KtlsPolicy(KtlsMode.REQUIRE)
    with pytest.raises(KtlsUnavailable, match="TLSIFY_KTLS"):
        Configuration(lambda: ServerConfig(key_pair=key_pair), policy).load()


def test_keys_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names the first; a key that is not there is none."""
    there, missing = tmp_path / "key.pem", tmp_path / "missing"
    there.touch()
    for files, number in (((missing,), 0), ((missing, there, there), 1)):
        found = Isolated(cast("Any", None), files)
        monkeypatch.setattr(Custody, "load", lambda _, found=found: found)
        configuration = Configuration(cast("Any", None), RELAY, _HERE)
        configuration.load()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            configuration.warn_of_readable_keys()
        assert [str(there) in each.getMessage() for each in caplog.records] == [True] * number
