"""Tests of launch, and of notifications: a child whose calls are answered here."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.wrap.wrapped import needs_seccomp
from tlsify.errors import ConfigError
from tlsify.wrap import filter as call_filter
from tlsify.wrap.filter import Questions
from tlsify.wrap.holders import children
from tlsify.wrap.launch import Launch, launch
from tlsify.wrap.notifications import Notifications

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from tlsify.wrap.notifications import Call

pytestmark = needs_seccomp


@contextmanager
def launched(become: Callable[[], int], private: Collection[int] = ()) -> Iterator[Launch]:
    """Have a child wait to become something."""
    found = launch(become, 256, Questions(), private=private)
    try:
        yield found
    finally:
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
            os.waitpid(found.pid, 0)
        found.go.close()
        found.notifications.close()


def next_call(found: Launch) -> Call:
    """Wait for a call."""
    while (call := found.notifications.receive()) is None:
        found.notifications._poll.poll()
    return call


def test_answers() -> None:
    """A call goes on, succeeds, fails, or gets a descriptor, as it is told to."""
    reader, writer = os.pipe()

    def become() -> int:
        found: list[object] = []
        for _ in range(3):
            try:
                os.close(300)
                found.append(0)
            except OSError as exc:
                found.append(exc.errno)
        given = ctypes.CDLL(None).accept(0, None, None)
        os.write(writer, repr([*found, given, os.read(given, 5)]).encode())
        return 0

    with launched(become) as found:
        found.release()
        notifications = found.notifications
        calls = [next_call(found)]
        notifications.go_on(calls[0])
        calls.append(next_call(found))
        notifications.succeed(calls[1])
        calls.append(next_call(found))
        notifications.fail(calls[2], errno.EIO)
        calls.append(next_call(found))
        assert notifications.is_valid(calls[3])
        with pytest.raises(OSError, match="Bad file"):
            notifications.give(calls[3], reader, 2**20, close_on_exec=True)
        assert notifications.give(calls[3], reader, 400, close_on_exec=True) == 400
        assert [call.name for call in calls] == ["close"] * 3 + ["accept"]
        assert [call.descriptor for call in calls] == [300] * 3 + [0]
        assert not notifications.is_valid(calls[3])
        assert notifications.give(calls[3], reader, None, close_on_exec=True) is None
        notifications.fail(calls[3], errno.EIO)  # nobody is left to hear of it
        read = next_call(found)
        assert (read.name, read.descriptor) == ("read", 400)
        notifications.go_on(read)
        os.write(writer, b"given")
        end = next_call(found)
        assert (end.name, end.arguments[0]) == ("exit_group", 0)
    expected = [errno.EBADF, 0, errno.EIO, 400, b"given"]
    assert os.read(reader, 1000) == repr(expected).encode()
    os.close(reader)
    os.close(writer)


def test_end_of_all() -> None:
    """When the last process has ended there is nobody to ask."""
    with launched(lambda: 0) as found:
        found.release()
        found.notifications.go_on(next_call(found))
        os.waitpid(found.pid, 0)  # until then some kernels wait for it, too
        with pytest.raises(EOFError):
            found.notifications.receive()


def test_cancelled() -> None:
    """A child that is not to go on becomes nothing."""
    found = launch(lambda: os.write(2, b"it was run"), 256, Questions())
    found.cancel()
    with pytest.raises(ChildProcessError):
        os.waitpid(found.pid, 0)


def test_private_descriptors_and_sockets_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has none of our private descriptors, and the service manager means it."""
    (tmp_path / "key").touch()
    secret = os.open(tmp_path / "key", os.O_RDONLY)
    reader, writer = os.pipe()

    def become() -> int:
        files = {os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")}
        has_key, pid = str(tmp_path / "key") in files, str(os.getpid())
        is_meant = [os.environ.get(each) == pid for each in variables]
        os.write(writer, repr((has_key, is_meant)).encode())
        return 0

    variables = ("LISTEN_PID", "WATCHDOG_PID", "LISTEN_PIDFDID")
    for name in variables:
        monkeypatch.setenv(name, str(os.getpid()))
    with launched(become, private=[secret]) as found:
        found.release()
        assert os.read(reader, 100) == b"(False, [True, True, False])"
    for number in (secret, reader, writer):
        os.close(number)


@pytest.mark.parametrize(
    ("machine", "step"), [("riscv64", "not known"), (None, "seccomp: EBUSY"), (None, "Linux 5.14")]
)
def test_refusals(machine: str | None, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not work is named, with the other way; the child is gone."""
    if machine is not None:
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "", "", machine)))
    if "EBUSY" in step:
        monkeypatch.setattr(call_filter, "install", _busy)
    if "5.14" in step:
        monkeypatch.setattr(Notifications, "can_give", lambda _: False)
    before = set(children(os.getpid()))
    with pytest.raises(ConfigError, match=step) as caught:
        launch(lambda: 0, 256, Questions())
    assert "tlsify help forward" in caught.value.hint
    assert set(children(os.getpid())) == before


def _busy(*_: object) -> int:
    raise OSError(errno.EBUSY, "busy")
