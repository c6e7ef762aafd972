"""Tests of custody: what a server knows of its custodian, and may ask of it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.doubles import until
from tests.isolation.test_custodian import children, works
from tlsify.errors import WorkerError
from tlsify.isolation.custodian import Loaded, Task
from tlsify.isolation.custody import Custody, Isolated
from tlsify.serving.configuration import leave_holders

if TYPE_CHECKING:
    from pathlib import Path

    from tests.doubles import Lab
    from tests.isolation.test_custodian import Isolate


def test_custodian_that_alone_had_the_key(lab: Lab, tmp_path: Path) -> None:
    """Another one could not read it: the error says what to do."""
    _, config = lab.configs()
    private = os.open(tmp_path, os.O_RDONLY)
    task = Task(lambda _: Loaded(config, (config.aeads,)), lambda _: None, 1, (private,))
    custody = Custody(task)
    custody.load().config.rendezvous.leave()
    os.kill(custody.pid, signal.SIGKILL)
    os.waitpid(custody.pid, 0)
    until(lambda: custody.deaths() == 1)
    with pytest.raises(WorkerError, match="--key-fd"):
        custody.load()
    os.close(private)


def test_worker_leaves_the_custodian(isolate: Isolate, lab: Lab) -> None:
    """It keeps no way to have keys read: here the next load has to start another one."""
    _, config = lab.configs()
    keys = isolate(lambda: config)
    keys.load()
    first = keys.custody.pid
    leave_holders()
    keys.load()
    assert keys.custody.pid != first
    assert keys.custody.deaths() == 0


def test_ends(lab: Lab) -> None:
    """A signal to all of the server's processes ends none; that nobody is left does."""
    _, config = lab.configs()
    custody = Custody(Task(lambda _: Loaded(config, (config.aeads,)), lambda _: None, 2))
    found: Isolated = custody.load()
    keeper = custody.pid
    for pid in (keeper, *children(keeper)):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
    assert works(lab, found.config)
    custody.leave()
    custody.leave()
    found.config.rendezvous.leave()
    assert os.waitpid(keeper, 0)[1] == 0
