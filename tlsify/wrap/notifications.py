"""Notifications of seccomp: calls that the program's supervisor is asked about, and its answers."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# linux/seccomp.h: struct seccomp_notif, with struct seccomp_data in it; seccomp_notif_resp; and
# seccomp_notif_addfd.
_ASKED, _ANSWER, _ADDED = (
    struct.Struct("=QIIiIQ6Q"),
    struct.Struct("=QqiI"),
    struct.Struct("=QIIII"),
)
_ID = struct.Struct("=Q")
_ROOM = 512  # a later kernel may say more
_CONTINUE = 1
_SET_NUMBER, _AND_ANSWER = 1, 2


def _request(number: int, size: int, direction: int = 3) -> int:
    """Return the number of a request: asm-generic/ioctl.h _IOC."""
    return direction << 30 | size << 16 | ord("!") << 8 | number


_RECEIVE, _SEND = _request(0, _ASKED.size), _request(1, _ANSWER.size)
_IS_VALID, _ADD = _request(2, _ID.size, 1), _request(3, _ADDED.size, 1)


class Call(NamedTuple):
    """A system call that waits for an answer.

    Attributes:
        id: the kernel's own number of it.
        tid: the thread that calls.
        name: of the call.
        arguments: all six.
    """

    id: int
    tid: int
    name: str
    arguments: tuple[int, ...]

    @property
    def descriptor(self) -> int:
        """The descriptor that it is about, in a process that may have given another number."""
        return self.arguments[0] & 0xFFFFFFFF


class Notifications:
    """The descriptor on which a supervisor is asked.

    A call may end while it is looked at: its thread was killed, or a signal has interrupted it.
    Then there is nobody to answer, which is no error.

    Attributes:
        reads: whether reads of connections are asked about.
    """

    def __init__(self, descriptor: int, names: Mapping[int, str], *, reads: bool = True) -> None:
        """Take over the descriptor.

        Args:
            descriptor: of `filter.install`.
            names: of the calls, by number.
            reads: as `filter.build` has it.
        """
        self.reads = reads
        self.descriptor = descriptor
        self._names = names
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def close(self) -> None:
        """Let go: every call that is asked about fails with ENOSYS from here on."""
        os.close(self.descriptor)

    def receive(self) -> Call | None:
        """Return the next call; None if there is none, or it has ended.

        Raises:
            EOFError: no process is left that could call.
        """
        ((_, events),) = self._poll.poll(0) or ((0, 0),)
        if not events & select.POLLIN:
            if events:
                raise EOFError
            return None
        room = bytearray(_ROOM)  # the kernel wants zeros
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, room)
        except OSError as exc:
            if exc.errno in {errno.ENOENT, errno.EINTR}:
                return None
            raise
        number, tid, _, call, _, _, *arguments = _ASKED.unpack_from(room)
        return Call(number, tid, self._names[call], tuple(arguments))

    def is_valid(self, call: Call) -> bool:
        """Return whether a call still waits: its thread is the one it was."""
        try:
            fcntl.ioctl(self.descriptor, _IS_VALID, _ID.pack(call.id))
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return False
        return True

    def go_on(self, call: Call) -> None:
        """Have the kernel do what was called for."""
        self._answer(call, flags=_CONTINUE)

    def succeed(self, call: Call, value: int = 0) -> None:
        """Let a call return a value, without doing anything."""
        self._answer(call, value)

    def fail(self, call: Call, number: int) -> None:
        """Let a call fail with an errno."""
        self._answer(call, error=-number)

    def _answer(self, call: Call, value: int = 0, error: int = 0, flags: int = 0) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, _ANSWER.pack(call.id, value, error, flags))
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.EINPROGRESS}:  # it was answered before
                raise

    def give(
        self, call: Call, descriptor: int, number: int | None, *, close_on_exec: bool
    ) -> int | None:
        """Put a descriptor of ours into the process that calls, which the call returns.

        Args:
            call: is answered, unless this raises.
            descriptor: ours; stays open.
            number: what it is to be there, instead of whatever has that number; None for any.
            close_on_exec: whether it is closed when its process executes a program.

        Returns:
            Its number; None if the call has ended.

        Raises:
            OSError: EMFILE or EBADF, the process may not have as many.
        """
        how = _AND_ANSWER if number is None else _AND_ANSWER | _SET_NUMBER
        flags = os.O_CLOEXEC if close_on_exec else 0
        asked = _ADDED.pack(call.id, how, descriptor, number or 0, flags)
        try:
            given: int = fcntl.ioctl(self.descriptor, _ADD, bytearray(asked))
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return None
        return given

    def can_give(self) -> bool:
        """Return whether this kernel gives a descriptor and answers in one step (Linux 5.14)."""
        asked = _ADDED.pack(0, _AND_ANSWER, self.descriptor, 0, 0)
        try:
            fcntl.ioctl(self.descriptor, _ADD, asked)
        except OSError as exc:
            return exc.errno == errno.ENOENT  # there is no call with that number
        return False
