"""Run a program on a connection: it keeps our process, a child keeps the connection."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import struct
from typing import TYPE_CHECKING

from tlsify.cli.messages import fail
from tlsify.cli.program import ucspi
from tlsify.cli.program.descriptors import let_go
from tlsify.connection.keeper import Keeper
from tlsify.errors import ExitCode, TlsifyError, UsageError, errno_name
from tlsify.keys import wipe
from tlsify.system.process import THE_PROGRAMS, fork_for, ignore, status_of
from tlsify.system.sandbox import Reach, Sandboxing, confine, renounce

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tlsify.config import ClosePolicy
    from tlsify.connection.handoff import Handoff

# Where a program that knows the contract finds the session's state, once.
SESSION_FD = 8
SESSION_VARIABLE = "TLSIFY_SESSION_FD"
_FREE = 16  # above all that programs are given
_MAX_MESSAGE = 2**17
# What the child sends, with descriptors and behind the length of what the program is told of its
# connection: nothing more, or the session's state. It sends nothing at all if it fails.
_NOTHING, _KEPT, _AWARE = b"", b"k", b"a"
_LENGTH = struct.Struct("!I")


class ProgramError(TlsifyError):
    """A program cannot be run."""


class NotFoundError(ProgramError):
    """There is no program of this name."""

    exit_code = ExitCode.NOT_FOUND


class NotExecutableError(ProgramError):
    """The file may not be run."""

    exit_code = ExitCode.NOT_EXECUTABLE


def run(
    program: list[str],
    open_connection: Callable[[], ucspi.Connection],
    closing: ClosePolicy,
    places: tuple[int, int],
    *,
    aware: bool,
) -> int:
    """Fork: the child opens the connection and looks after it, the parent becomes the program.

    So the program has our pid, and its exit status is the command's; the child's says how the
    connection ended, to the process that waits for it.

    Args:
        program: its name, looked up in PATH, and its arguments.
        open_connection: connects and hands over.
        closing: what an end of stream without close_notify is.
        places: where the program finds the descriptors to read and to write.
        aware: the program keeps to docs/handoff.md: it gets the bare descriptor and the session.

    Returns:
        In the parent, why there is no program; in the child, once the connection is over.

    Raises:
        ProgramError: there is no such program.
        TlsifyError: in the child: the connection failed, or ended badly.
        OSError: likewise.
    """
    path = find(program[0])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork_for("the connection")
    if pid == 0:
        ours.close()
        with theirs:
            renounce()  # the program is the other process's
            let_go()
            connection = open_connection()
            told = ucspi.encode(ucspi.variables(connection))
            message = _LENGTH.pack(len(told)) + told
            if aware:
                _serve_aware(connection.handoff, theirs, message)
            else:
                _keep(connection, theirs, message, closing)
        return ExitCode.OK
    theirs.close()
    kind = _take_descriptors(ours, places)
    if kind == _NOTHING:
        return status_of(pid)
    if kind == _AWARE:
        os.waitpid(pid, 0)  # nothing is left for it to do
    return become(path, program)


def become(path: str, program: list[str]) -> int:
    """Turn this process into a program, with signals as programs expect them.

    Returns:
        Why it did not; the error was printed.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(path, program)
    except OSError as exc:
        hint = "check that the interpreter in its #! line exists"
        fail(f"cannot run {path}: {errno_name(exc.errno or 0)}: {exc.strerror}", hint)
    return ExitCode.NOT_EXECUTABLE


def check(program: Sequence[str]) -> str:
    """Return the path of a program that has to be named.

    Raises:
        UsageError: it is not.
        ProgramError: it cannot be run.
    """
    if not program:
        raise UsageError("there is no program to run", hint="add -- PROG ARG...")
    return find(program[0])


def find(name: str) -> str:
    """Return the path of a program in PATH.

    Raises:
        ProgramError: it cannot be run.
    """
    path = shutil.which(name)
    if path is not None:
        return path
    if shutil.which(name, mode=os.F_OK) is None:
        raise NotFoundError(f"cannot run {name}: not found", hint="check its name and PATH")
    raise NotExecutableError(
        f"cannot run {name}: not executable", hint="make it executable, or name another program"
    )


# -- the child


def _serve_aware(handoff: Handoff, channel: socket.socket, message: bytes) -> None:
    ignore(THE_PROGRAMS)  # as in `_keep`
    if handoff.relay is not None:
        handoff.relay.end_in_order()  # as the keeper has it: the program's end is one
        _send(channel, _KEPT + message, [handoff.sock.fileno()] * 2)
        handoff.sock.close()
        handoff.relay.join()
        handoff.raise_failure()
    else:
        _give_away(handoff, channel, message)


def _keep(
    connection: ucspi.Connection, channel: socket.socket, message: bytes, closing: ClosePolicy
) -> None:
    # From here on the connection is the program's, and so is what the user types. A program that is
    # asked to end may have something to say yet: we end when it has.
    ignore(THE_PROGRAMS)
    handoff = connection.handoff
    keeper = Keeper(handoff, closing, connection.traffic)
    parent = os.getppid()
    is_taken = _send(channel, _KEPT + message, [end.fileno() for end in keeper.ends])
    keeper.let_go()
    # It needs no more than the descriptors that it has, and the place of sessions to come.
    intake = None if handoff.channel is None else handoff.channel.intake
    confine(Reach(write=() if intake is None else (str(intake.folder),)), Sandboxing.AUTO)
    keeper.run(parent if is_taken else None)


def _give_away(handoff: Handoff, channel: socket.socket, message: bytes) -> None:
    descriptor, state = handoff.detach()
    whole = bytearray().join((_AWARE, message, state))
    try:
        _send(channel, whole, [descriptor] * 2)
    finally:
        wipe(state, whole)
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


def _take_descriptors(channel: socket.socket, places: tuple[int, int]) -> bytes:
    """Put what the child sends where the program looks for it; return the kind of message."""
    with channel:
        message, descriptors, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, 2)
    for number in descriptors:
        os.set_inheritable(number, False)
    kind, rest = message[:1], message[1:]
    if kind == _NOTHING:
        return kind
    (length,) = _LENGTH.unpack_from(rest)
    told, state = rest[_LENGTH.size :][:length], rest[_LENGTH.size + length :]
    ucspi.apply(ucspi.decode(told))
    if kind == _AWARE:
        descriptors.append(_pipe_with(state))
        os.environ[SESSION_VARIABLE] = str(SESSION_FD)
    # Out of the way first: some of them may stand where others belong.
    free = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FREE) for number in descriptors]
    for number, place in zip(free, (*places, SESSION_FD), strict=False):
        os.dup2(number, place)
    return kind


def _pipe_with(state: bytes) -> int:
    """Return the reading end of a pipe that holds all of the state: it has no reader meanwhile."""
    reader, writer = os.pipe()
    if len(state) > fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(state))
    os.write(writer, state)
    os.close(writer)
    return reader
