"""Tests of notifications: a supervisor's descriptor, with a real child in test_launch.py."""

from __future__ import annotations

from tests.wrap.test_launch import launched
from tests.wrap.wrapped import needs_seccomp

pytestmark = needs_seccomp


def test_nothing_is_asked() -> None:
    """Receiving does not wait; the kernel can give descriptors."""
    with launched(lambda: 0) as found:
        assert found.notifications.receive() is None
        assert found.notifications.can_give()
