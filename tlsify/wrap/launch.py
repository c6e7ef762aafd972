"""Start of a wrapped program: a child under the filter, which waits, and then becomes it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from tlsify.errors import ConfigError, errno_name
from tlsify.system import libc
from tlsify.system.process import become_reaper, end_with, forgo_gains, fork_for, show_process
from tlsify.wrap import filter as call_filter
from tlsify.wrap.notifications import Notifications

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

# asm-generic/unistd.h: the same on every architecture.
_PIDFD_GETFD = 438
_TOLD = struct.Struct("=ii")  # a descriptor or -1, and an errno
_ELSEWHERE = (
    'put TLS in front of the program instead: "tlsify help forward" (--pass-fd for workers)'
)
_HINTS = {
    errno.EBUSY: "a wrapped program, or a container with such an agent, has a supervisor already; "
    + _ELSEWHERE,
    errno.EPERM: "allow this process to reach its child: Docker needs --cap-add SYS_PTRACE, Yama "
    "a kernel.yama.ptrace_scope below 2, a systemd unit seccomp and pidfd_getfd in its "
    "SystemCallFilter; or " + _ELSEWHERE,
}


class Launch(NamedTuple):
    """A child that waits to become the program.

    Attributes:
        pid: its process, which is going to be the program's.
        notifications: where its calls are asked about.
        go: closed or written to, it tells the child whether to go on.
    """

    pid: int
    notifications: Notifications
    go: socket.socket

    def release(self) -> None:
        """Let the program begin."""
        with self.go:
            self.go.send(b"\0")

    def cancel(self) -> None:
        """Let the child end instead."""
        self.go.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.notifications.close()


def launch(
    become: Callable[[], int],
    base: int,
    questions: call_filter.Questions,
    *,
    private: Collection[int] = (),
) -> Launch:
    """Fork the child, before anything secret is in our memory: it is the program's to look at.

    All orphans below are this process's children from here on.

    Args:
        become: executes the program; returns an exit status if it could not.
        base: as `filter.build` has it.
        questions: likewise.
        private: descriptors that the program must not have.

    Raises:
        ConfigError: this host allows no such supervisor.
        ResourceError: there can be no process.
    """
    machine = os.uname().machine
    if not call_filter.is_supported(machine):
        raise _obstacle(f"the system calls of {machine} are not known to tlsify", errno.ENOSYS)
    code = call_filter.build(machine, base, questions)
    become_reaper()
    parent = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork_for("the program")
    if pid == 0:
        install = partial(call_filter.install, machine, code)
        _be_child(parent, theirs, install, become, [ours.fileno(), *private])
    theirs.close()
    try:
        notifications = _meet(pid, ours, machine, reads=questions.reads)
    except BaseException:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return Launch(pid, notifications, ours)


def _be_child(
    parent: int,
    channel: socket.socket,
    install: Callable[[], int],
    become: Callable[[], int],
    private: Collection[int],
) -> NoReturn:
    status = 1
    try:
        for number in private:
            with contextlib.suppress(OSError):
                os.close(number)
        end_with(parent)  # nothing would answer its calls
        show_process()
        forgo_gains()
        try:
            told = _TOLD.pack(install(), 0)
        except OSError as exc:
            told = _TOLD.pack(-1, exc.errno or 0)
        channel.send(told)
        if not channel.recv(1):
            os.kill(os.getpid(), signal.SIGKILL)  # `exit` would be asked about
        _adopt_environment(parent)
        status = become()
    finally:
        os._exit(status)


def _adopt_environment(parent: int) -> None:
    """Make this process the one that the service manager means: what it has given is the program's.

    Source: sd_listen_fds(3), sd_watchdog_enabled(3).
    """
    for name in ("LISTEN_PID", "WATCHDOG_PID"):
        if os.environ.get(name) == str(parent):
            os.environ[name] = str(os.getpid())
    os.environ.pop("LISTEN_PIDFDID", None)  # of the parent, too; it need not be there


def _meet(pid: int, channel: socket.socket, machine: str, *, reads: bool) -> Notifications:
    """Take the descriptor on which the child's calls are asked about out of the child.

    That is also a test: the supervisor takes listening sockets out of the program in the same way.
    """
    told = channel.recv(_TOLD.size)
    number, failure = _TOLD.unpack(told) if told else (-1, errno.ECHILD)
    if number == -1:
        raise _obstacle("seccomp", failure)
    pidfd = os.pidfd_open(pid)
    try:
        taken = take(pidfd, number)
    except OSError as exc:
        raise _obstacle("pidfd_getfd", exc.errno or 0) from exc
    finally:
        os.close(pidfd)
    notifications = Notifications(taken, call_filter.names(machine), reads=reads)
    if not notifications.can_give():
        notifications.close()
        raise _obstacle("this kernel is older than Linux 5.14", errno.EINVAL)
    return notifications


def take(pidfd: int, number: int) -> int:
    """Duplicate a descriptor of another process.

    Raises:
        OSError: EBADF, it has none of that number; EPERM, it may not be looked into.

    Source: pidfd_getfd(2).
    """
    return libc.call("syscall", _PIDFD_GETFD, pidfd, number, 0)


def _obstacle(step: str, number: int) -> ConfigError:
    return ConfigError(
        f"the program cannot be wrapped: {step}: {errno_name(number)}: {os.strerror(number)}",
        hint=_HINTS.get(number, _ELSEWHERE),
    )
