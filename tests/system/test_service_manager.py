"""Tests of service_manager."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path

import pytest

from tlsify.system import service_manager
from tlsify.system.service_manager import ServiceManager


def test_notification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one datagram, to a path or an abstract name."""
    for address in (str(tmp_path / "notify"), f"@tlsify-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(address.replace("@", "\0", 1))
            sock.settimeout(60)
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            service_manager.notify("READY=1")
            assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "vsock:1:2", "/nonexistent/socket"])
def test_notification_that_nobody_takes(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    service_manager.notify("READY=1")


def test_notification_to_a_manager_that_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is full keeps the service from its work for a moment only."""
    monkeypatch.setattr(service_manager, "_PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        room = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        for _ in range(room + 5):
            service_manager.notify("WATCHDOG=1")


@pytest.mark.parametrize(
    ("period", "pid", "expected"),
    [
        ("3000000", "", 3.0),
        pytest.param("500000", str(os.getpid()), 0.5, id="ours"),
        ("500000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("-1", "", None),
        ("soon", "", None),
    ],
)
def test_watchdog_period(
    period: str, pid: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment says how often, and whom it means."""
    monkeypatch.setenv("WATCHDOG_USEC", period)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert service_manager.watchdog_period() == expected


def test_states() -> None:
    """They are sd_notify's words; a reload says when it began."""
    told: list[str] = []
    manager = ServiceManager(told.append)
    manager.ready()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.reloading()
    manager.ready("2 workers")
    manager.stopping("draining", 1.5)
    ready, reloading, *rest = told
    assert ready == "READY=1"
    assert rest == [
        "READY=1\nSTATUS=2 workers",
        "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=1500000",
    ]
    word, moment = reloading.splitlines()
    assert word == "RELOADING=1"
    assert int(moment.removeprefix("MONOTONIC_USEC=")) >= before


def test_watchdog() -> None:
    """It is fed twice in each period, on behalf of a service that lives."""
    told: list[str] = []
    manager = ServiceManager(told.append, period=60)
    start = manager.due
    for seconds in (0, 29, 30, 59, 61):
        manager.feed(start + seconds)
    assert told == ["WATCHDOG=1"] * 3
    manager.feed(start + 100, alive=False)
    assert told == ["WATCHDOG=1"] * 3
    assert manager.due == start + 103, "sooner than otherwise: it may have come back"
    manager.feed(manager.due)
    assert told == ["WATCHDOG=1"] * 4


def test_no_watchdog() -> None:
    """Where none is set nothing is ever due."""
    told: list[str] = []
    manager = ServiceManager(told.append)
    manager.feed(1e9)
    assert told == []
    assert manager.due == math.inf
