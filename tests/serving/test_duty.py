"""Tests of duty; what a supervisor makes of each part is tested in test_workers."""

from __future__ import annotations

from tlsify.serving.duty import SupervisorHooks


def test_nothing_in_particular() -> None:
    """Without any wish there is nothing to call that would do something, and much patience."""
    duty = SupervisorHooks()
    assert duty.patience >= 30
    for call in (duty.on_ready, duty.on_stop, duty.before_fork):
        call()
    duty.notify("READY=1")
    assert (duty.renew, duty.watch, duty.rehearse, duty.succeed, duty.watchdog) == (None,) * 5
