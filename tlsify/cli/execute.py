"""Run a program on a connection: it keeps our process, a child keeps the connection."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING

from tlsify.cli import fail
from tlsify.errors import ExitCode
from tlsify.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.config import ClosePolicy
    from tlsify.handoff import Handoff

# Where a UCSPI client's program finds the connection (cr.yp.to/proto/ucspi.txt).
READ_FD, WRITE_FD = 6, 7
# Where a program that knows the contract finds the session's state, once.
SESSION_FD = 8
SESSION_VARIABLE = "TLSIFY_SESSION_FD"
_FREE = 16  # above all of these
_MAX_STATE = 2**17
_STDERR = 2
_SIGNAL = 128  # and the number of the signal: how shells spell such an end
# What the child sends: nothing if it fails; descriptors; descriptors and the session's state.
_NOTHING, _KEPT, _AWARE = b"", b"k", b"a"


def run(
    program: list[str],
    open_connection: Callable[[], Handoff],
    closing: ClosePolicy,
    *,
    aware: bool,
) -> int:
    """Fork: the child opens the connection and looks after it, the parent becomes the program.

    So the program has our pid, and its exit status is the command's; the child's says how the
    connection ended, to whoever waits for it.

    Args:
        program: its name, looked up in PATH, and its arguments.
        open_connection: connects and hands over.
        closing: what an end of stream without close_notify is.
        aware: the program keeps to docs/handoff.md: it gets the bare descriptor and the session.

    Returns:
        In the parent, why there is no program; in the child, once the connection is over.

    Raises:
        TlsifyError: in the child: the connection failed, or ended badly.
        OSError: likewise.
    """
    path = shutil.which(program[0])
    if path is None:
        return _not_runnable(program[0])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        with theirs:
            _let_go()
            _serve(open_connection(), theirs, closing, aware=aware)
        return ExitCode.OK
    theirs.close()
    kind = _take_descriptors(ours)
    if kind == _NOTHING:
        return _status_of(pid)
    if kind == _AWARE:
        os.waitpid(pid, 0)  # nothing is left for it to do
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(path, program)  # noqa: S606 - that is what we are for
    except OSError as exc:
        fail(f"cannot run {path}: {exc.strerror}", "see whether its interpreter exists")
    return ExitCode.NOT_EXECUTABLE


def _not_runnable(name: str) -> int:
    exists = shutil.which(name, mode=os.F_OK) is not None
    if exists:
        fail(f"cannot run {name}: not executable", "make it executable, or name another program")
        return ExitCode.NOT_EXECUTABLE
    fail(f"cannot run {name}: not found", "check its name and PATH")
    return ExitCode.NOT_FOUND


# -- the child


def _let_go() -> None:
    """Close what the caller gave the program to inherit: who waits for its end waits for no more.

    Whatever is ours closes itself on exec, so that what does not is not ours. Errors still go to
    stderr.
    """
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib opens another one
        with contextlib.suppress(OSError):
            if int(entry) > _STDERR and os.get_inheritable(int(entry)):
                os.close(int(entry))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(_STDERR):
        os.dup2(null, stream)
    os.close(null)


def _serve(handoff: Handoff, channel: socket.socket, closing: ClosePolicy, *, aware: bool) -> None:
    # From here on the connection is the program's, and so is what the user types.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not aware:
        _keep(handoff, channel, closing)
    elif handoff.relay is not None:
        _send(channel, _KEPT, [handoff.sock.fileno()] * 2)
        handoff.sock.close()
        handoff.relay.join()
        handoff.raise_failure()
    else:
        _give_away(handoff, channel)


def _keep(handoff: Handoff, channel: socket.socket, closing: ClosePolicy) -> None:
    keeper = Keeper(handoff, closing)
    parent = os.getppid()
    is_taken = _send(channel, _KEPT, [end.fileno() for end in keeper.ends])
    keeper.let_go()
    keeper.run(parent if is_taken else None)


def _give_away(handoff: Handoff, channel: socket.socket) -> None:
    descriptor, state = handoff.detach()
    try:
        _send(channel, _AWARE + state, [descriptor] * 2)
    finally:
        state[:] = bytes(len(state))
        os.close(descriptor)


def _send(channel: socket.socket, message: bytes | bytearray, descriptors: list[int]) -> bool:
    """Pass descriptors on; False if the parent has been ended and there will be no program."""
    try:
        socket.send_fds(channel, [message], descriptors)
    except BrokenPipeError:
        return False
    finally:
        channel.close()
    return True


# -- the parent


def _take_descriptors(channel: socket.socket) -> bytes:
    """Put what the child sends where the program looks for it; gives the kind of message."""
    with channel:
        message, descriptors, _, _ = socket.recv_fds(channel, _MAX_STATE, 2)
    for number in descriptors:
        os.set_inheritable(number, False)  # noqa: FBT003 - os's own signature
    kind, state = message[:1], message[1:]
    if kind == _NOTHING:
        return kind
    os.environ.pop(SESSION_VARIABLE, None)
    if kind == _AWARE:
        descriptors.append(_pipe_with(state))
        os.environ[SESSION_VARIABLE] = str(SESSION_FD)
    # Out of the way first: some of them may stand where others belong.
    free = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FREE) for number in descriptors]
    for number, place in zip(free, (READ_FD, WRITE_FD, SESSION_FD), strict=False):
        os.dup2(number, place)
    return kind


def _pipe_with(state: bytes) -> int:
    """Give the reading end of a pipe that holds all of the state: nobody reads it meanwhile."""
    reader, writer = os.pipe()
    if len(state) > fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(state))
    os.write(writer, state)
    os.close(writer)
    return reader


def _status_of(pid: int) -> int:
    """Wait for a child; gives its exit status as shells spell it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else _SIGNAL - code
