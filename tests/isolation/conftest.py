"""Key holders for tests."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from tests.doubles import RELAY
from tlsify.connection import establish
from tlsify.isolation.custodian import Loaded, Task
from tlsify.isolation.custody import Custody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.isolation.remote_engine import IsolatedServer


class Keys:
    """A custodian, and what it has loaded."""

    def __init__(self, load: Callable[[], ServerConfig], policy: KtlsPolicy, holders: int) -> None:
        """Prepare; it begins with the first configuration."""

        def loaded(previous: ServerConfig | None) -> Loaded:
            config = load()
            establish.prepare(config, policy, previous)
            return Loaded(config, establish.choices(config, policy))

        self.custody = Custody(Task(loaded, lambda _: None, holders))
        self._stack = ExitStack()
        self._pids: set[int] = set()

    def load(self) -> IsolatedServer:
        """Load the configuration."""
        try:
            config = self.custody.load().config
        finally:
            self._pids.add(self.custody.pid)
        self._stack.callback(config.rendezvous.leave)
        return config

    def close(self) -> None:
        """Leave all, and wait until all of them have ended."""
        self._stack.close()
        self.custody.leave()
        for pid in self._pids:
            with suppress(ChildProcessError):  # the test has waited for it
                os.waitpid(pid, 0)


@pytest.fixture
def isolate() -> Iterator[Callable[..., Keys]]:
    """Start custodians, which end with the test."""
    made: list[Keys] = []

    def start(
        load: Callable[[], ServerConfig], policy: KtlsPolicy = RELAY, holders: int = 1
    ) -> Keys:
        made.append(Keys(load, policy, holders))
        return made[-1]

    yield start
    for each in made:
        each.close()
