"""This process: protection, privileges, forking, its end."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import signal
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from tlsify.errors import ConfigError, ResourceError, errno_name
from tlsify.system import libc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

# The first descriptor that is out of the way.
_SIGNAL = 128  # and the number of the signal: how shells spell such an end
_FAR = 64
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_SET_CHILD_SUBREAPER = 36
_MOST_CAPABILITIES = 64
# Seconds after a request to end from which another one counts as a second request.
_AGAIN = 0.3
# Signals for the program on a connection, which its keeper receives too if they go to a whole
# terminal, process group or service: the program decides about them.
THE_PROGRAMS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)


def protect_process() -> None:
    """Protect this process: no core dump, and only root may attach to it.

    That goes for forked children too, and ends with ``exec``. Traffic secrets, private keys and
    plaintext lie in this process's memory; where the C library can, it overwrites memory of more
    than 1 KiB that is freed, in which OpenSSL leaves secrets behind.

    Raises:
        OSError: the kernel refuses.

    Source: prctl(2) PR_SET_DUMPABLE; RLIMIT_CORE does not bind dumps that are piped to a program.
        mallopt(3) M_PERTURB; glibc leaves small pieces as they are (malloc/malloc.c, _int_free).
    """
    _prctl(_PR_SET_DUMPABLE, 0)
    libc.overwrite_freed_memory()


def show_process() -> None:
    """Undo `protect_process`, in a forked child without secrets that another process looks into.

    Raises:
        OSError: the kernel refuses.
    """
    _prctl(_PR_SET_DUMPABLE, 1)


def become_reaper() -> None:
    """Have all processes below whose parent has ended become this process's children.

    Raises:
        OSError: the kernel refuses.

    Source: prctl(2) PR_SET_CHILD_SUBREAPER.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forgo_gains() -> None:
    """Prevent this process from gaining rights by executing a program: no set-user-ID works.

    Raises:
        OSError: the kernel refuses.

    Source: prctl(2) PR_SET_NO_NEW_PRIVS.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forgo_rights() -> None:
    """Do as `forgo_gains`, and give up capabilities that a program of root's would have.

    For processes that execute no program, unless an attacker has taken them over.

    Raises:
        OSError: the kernel refuses.

    Source: prctl(2) PR_CAPBSET_DROP.
    """
    forgo_gains()
    for capability in range(_MOST_CAPABILITIES):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # only root may, or there are no more of them
            return


def has_foreign_rights() -> bool:
    """Return whether this process has other rights than its caller, as setuid programs do."""
    return os.getuid() != os.geteuid() or os.getgid() != os.getegid()


def out_of_the_way(descriptor: int) -> int:
    """Move a descriptor of ours to where no program looks for its own: shells know ten of them."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FAR)
    except OSError:  # so few are allowed
        return descriptor
    os.close(descriptor)
    return moved


def let_go(descriptors: Iterable[int]) -> None:
    """Close descriptors, but keep their numbers taken: a later close hits nothing else.

    Raises:
        OSError: there is no descriptor for /dev/null.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for number in descriptors:
            if number != nothing:
                _take(number, nothing)
    finally:
        os.close(nothing)


def _take(number: int, nothing: int) -> None:
    try:
        os.dup2(nothing, number, inheritable=False)
    except OSError as exc:
        if exc.errno != errno.EBADF:  # which a number above the limit gives: it cannot come again
            raise
        os.close(number)


_endings: list[Callable[[], object]] = []


def before_end(ending: Callable[[], object]) -> None:
    """Register a function for `await_threads`."""
    _endings.append(ending)


def fork(ignored: Collection[int] = ()) -> int:
    """Fork; a signal to the child is the child's own from its first moment.

    The parent's handlers would run in the child, and its wake-up descriptor is the same pipe: the
    parent would take the child's signal for one of its own. So signals wait until the child has
    neither. What had a handler has its default action there; SIGINT remains KeyboardInterrupt
    where it was that.

    Args:
        ignored: signals that the child ignores.

    Returns:
        As ``os.fork``.

    Raises:
        OSError: there can be no process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals():
                handler = signal.getsignal(number)
                if callable(handler) and handler is not signal.default_int_handler:
                    signal.signal(number, signal.SIG_DFL)
            ignore(ignored)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def fork_for(what: str) -> int:
    """Fork, as `fork` does.

    Args:
        what: purpose of the child, for the message.

    Raises:
        ResourceError: there can be no process.
    """
    try:
        return fork()
    except OSError as exc:
        raise ResourceError(exc, f"no process for {what}") from exc


def status_of(pid: int) -> int:
    """Wait for a child; return its exit status as shells spell it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else _SIGNAL - code


def ignore(numbers: Collection[int]) -> None:
    """Ignore signals from here on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


class StopRequests:
    """Requests to end, of which the second is an urgent one.

    One request may come twice: timeout(1) sends its signal to the process and to its group, and
    a command's parent in a terminal may pass on a Ctrl-C that the command has also received.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._first: float | None = None

    def insist(self) -> bool:
        """Record a request; return whether it is a second one, rather than the first once more."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
        return now - self._first >= _AGAIN


def await_threads() -> None:
    """Wait for what still carries the last bytes: ``os._exit`` would wait for no thread.

    Open connections are ended first, as at the interpreter's end.
    """
    for ending in _endings:
        ending()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def end_with(parent: int) -> None:
    """Ask the kernel to send this process SIGTERM once its parent has ended.

    Args:
        parent: the process that has forked this one.

    Raises:
        OSError: the kernel refuses.

    Source: prctl(2) PR_SET_PDEATHSIG.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended meanwhile
        os.kill(os.getpid(), signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    libc.call("prctl", option, value, 0, 0, 0)


class Account(NamedTuple):
    """A user and group that a process can switch to.

    Attributes:
        user: uid.
        group: gid.
        groups: supplementary gids.
    """

    user: int
    group: int
    groups: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME`` or ``NAME:GROUP``, as /etc/passwd and /etc/group have them.

        Raises:
            ConfigError: there is no such user or group.
        """
        name, _, group = text.partition(":")
        try:
            user = pwd.getpwnam(name)
            gid = grp.getgrnam(group).gr_gid if group else user.pw_gid
        except KeyError as exc:
            raise ConfigError(
                f"no such user or group: {text}", hint="write NAME or NAME:GROUP"
            ) from exc
        return cls(user.pw_uid, gid, tuple(os.getgrouplist(name, gid)))

    @classmethod
    def from_environment(cls) -> Self | None:
        """Parse TLS_UID and TLS_GID, as in s6-tls; return None if they are not set.

        Raises:
            ConfigError: they are no numbers.
        """
        given = {name: os.environ.get(name) for name in ("TLS_UID", "TLS_GID")}
        if not any(given.values()):
            return None
        try:
            user, group = (int(given[name] or "") for name in given)
        except ValueError as exc:
            raise ConfigError(
                "TLS_UID and TLS_GID are not both numbers", hint="set both, or neither"
            ) from exc
        return cls(user, group, ())

    def become(self) -> None:
        """Drop every other privilege, for good; a no-op if there is none.

        A process that is the account already, and is no root, keeps the groups that it has.

        Raises:
            ConfigError: only root may.
        """
        if self._is_all():
            return
        try:
            self._switch()
        except OSError as exc:
            raise self._refusal(exc.errno or 0) from exc
        protect_process()  # setuid made it readable again, where fs.suid_dumpable says so

    def check(self) -> None:
        """Check, in a child, that this process may become the account.

        Raises:
            ConfigError: only root may.
        """
        if self._is_all():
            return
        pid = os.fork()
        if pid == 0:
            status = errno.EPERM
            try:
                self._switch()
                status = 0
            except OSError as exc:
                status = exc.errno or status
            finally:
                os._exit(status)
        if (status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) != 0:
            raise self._refusal(status)

    def _is_self(self) -> bool:
        return ((self.user,) * 3, (self.group,) * 3) == (os.getresuid(), os.getresgid())

    def _has_other_groups(self) -> bool:
        return not {self.group, *self.groups}.issuperset(os.getgroups())

    def _is_all(self) -> bool:
        """Return whether the process is the account, and nothing else."""
        return self._is_self() and not self._has_other_groups()

    def _switch(self) -> None:
        if 0 in os.getresuid():
            os.seteuid(0)  # its rights may have been put aside, and are needed to lose them
        try:
            os.setgroups(self.groups)
        except PermissionError:
            # A service manager may have given more groups to a process that is the account.
            if self._has_other_groups() and not self._is_self():
                raise
        os.setresgid(self.group, self.group, self.group)
        os.setresuid(self.user, self.user, self.user)

    def _refusal(self, number: int) -> ConfigError:
        return ConfigError(
            f"cannot become user {self.user}, group {self.group}: "
            f"{errno_name(number)}: {os.strerror(number)}",
            hint="only root may change its user: start it as root, or leave --user out",
        )
