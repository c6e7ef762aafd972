"""Answers to the calls of a wrapped program: each one served, refused, or left to the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from tlsify.connection.ending.forks import inode
from tlsify.errors import TlsifyError
from tlsify.logs.messages import NOTICE
from tlsify.system.listening import BACKLOG, spell
from tlsify.system.os_errors import explain
from tlsify.wrap.copies import Copies
from tlsify.wrap.door import Door, Lobby
from tlsify.wrap.holders import Hold, has_thread, process_of, socket_at, still_held
from tlsify.wrap.launch import take
from tlsify.wrap.relay.passage import Passages
from tlsify.wrap.steering import Group, Place, is_listening, is_tcp, obstacle
from tlsify.wrap.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tlsify.aio.acceptor import Acceptor
    from tlsify.logs.access import AccessLog
    from tlsify.wrap.descriptor import Descriptor
    from tlsify.wrap.notifications import Call, Notifications
    from tlsify.wrap.numbers import Numbers
    from tlsify.wrap.ports import Ports
    from tlsify.wrap.threads import Thread

_log = logging.getLogger("tlsify")

_TURN = 64  # calls that are answered before connections get a turn
# With these the program would speak to clients without TLS.
_LISTENING = {"listen", "accept", "accept4"}
_SUCCESS = 0xFF


class _NoTls(TlsifyError):
    """A listening socket cannot get it."""

    errno = errno.EACCES


class Calls:
    """All that a wrapped program asks, and what it has: doors and connections.

    Attributes:
        carrier: of its connections' records, in words.
    """

    carrier = "kernel TLS"

    def __init__(
        self,
        notifications: Notifications,
        numbers: Numbers,
        acceptor: Callable[..., Acceptor],
        ports: Ports,
        access_log: AccessLog | None = None,
    ) -> None:
        """Take what does not change.

        Args:
            notifications: where calls come from.
            numbers: for connections' descriptors.
            acceptor: makes what accepts, of listening sockets and what serves a connection.
            ports: which get TLS.
            access_log: gets a line for each connection.
        """
        self._notifications = notifications
        self._acceptor = acceptor
        self._ports = ports
        threads = Threads()
        passages = Passages(notifications, threads)
        self._lobby = Lobby(
            notifications, threads, numbers, self._delivered, passages, access_log, set()
        )
        self._doors: dict[int, Door] = {}  # by the inodes of the program's sockets
        self._seen: dict[int, Hold] = {}
        self._descriptors: dict[int, Descriptor] = {}
        self._pidfds: dict[int, int] = {}
        self._plain: set[int] = set()
        self._orderly: set[int] = set()
        self._complaints: set[tuple[object, object]] = set()
        self._copies = Copies(lambda call: self._look(call)[1], numbers.base)
        self._answers: dict[str, Callable[[Call], None]] = {
            "listen": self._listen,
            "accept": self._accept,
            "accept4": self._accept,
            "bind": self._bind,
            "close": self._close,
            "shutdown": self._shut_down,
            "exit_group": self._exit,
            "splice": self._splice,
            **dict.fromkeys(("getsockname", "getpeername"), passages.names.answer),
        }

    def answer(self) -> None:
        """Answer the calls that wait.

        Raises:
            EOFError: no process is left.
        """
        for _ in range(_TURN):
            call = self._notifications.receive()
            if call is None:
                return
            self._answer(call)

    def _answer(self, call: Call) -> None:
        try:
            if self._copies.note(call):
                self._notifications.go_on(call)
            else:
                self._answers.get(call.name, self._read)(call)
        except (TlsifyError, OSError) as exc:
            self._refuse(call, exc)
        except Exception:  # noqa: BLE001 - a bug of ours must not make plaintext possible
            self._refuse(call, None)
            _log.exception("bug in an answer to %s", call.name)

    def _refuse(self, call: Call, error: TlsifyError | OSError | None) -> None:
        """Answer a call that cannot be served: never so that plaintext may follow."""
        if call.name not in _LISTENING:
            self._notifications.go_on(call)
            return
        number = getattr(error, "errno", None) or errno.EACCES
        member = None
        with contextlib.suppress(OSError):
            member = socket_at(call.tid, call.descriptor)
        if error is not None and member is not None:
            why = explain(error) if isinstance(error, OSError) else error
            self._complain((member, number), "the program may not %s: %s", call.name, why)
        self._notifications.fail(call, number)

    def _complain(self, about: tuple[object, object], message: str, *words: object) -> None:
        """Warn, once: a program may call again at once, and looks are repeated."""
        if about not in self._complaints:
            self._complaints.add(about)
            _log.warning(message, *words)

    def _attempt(self, work: Callable[..., object], *words: Any, **named: Any) -> None:
        """Do something for one of many, and for the others if that fails; it is repeated."""
        try:
            work(*words, **named)
        except OSError as exc:
            self._complain(
                (None, exc.errno), "the program cannot be looked at, retrying: %s", explain(exc)
            )

    # -- listening

    def doors(self) -> set[Door]:
        """Return the open doors."""
        return set(self._doors.values())

    def _listen(self, call: Call) -> None:
        theirs = self._tcp_socket(call)
        if theirs is None:
            self._notifications.go_on(call)
            return
        backlog = call.arguments[1] & 0x7FFFFFFF
        if inode(theirs) in self._doors:
            with theirs:
                theirs.listen(max(backlog, BACKLOG))
        else:
            self._open(call, theirs, backlog)
        self._notifications.succeed(call)

    def _accept(self, call: Call) -> None:
        _, member = self._lobby.threads.look(call.tid, call.descriptor)
        if member is None or member not in self._doors:
            theirs = self._tcp_socket(call)
            if theirs is None or not is_listening(theirs):
                self._copies.found_way()  # it may be a UNIX domain socket
                self._notifications.go_on(call)
                return
            # The program has inherited it, and it listened before.
            member = self._open(call, theirs, BACKLOG)
        self._doors[member].accept(call, member)

    def _tcp_socket(self, call: Call) -> socket.socket | None:
        """Return a duplicate of the program's socket; None if it is not to get TLS.

        Raises:
            OSError: the program cannot be looked into; EBADF also where its first thread has ended,
                on some kernels: then it must not go on.
        """
        pidfd = os.pidfd_open(process_of(call.tid))
        try:
            number = take(pidfd, call.descriptor)
        finally:
            os.close(pidfd)
        if not self._notifications.is_valid(call):  # what was taken may be another process's
            os.close(number)
            return None
        try:
            theirs = socket.socket(fileno=number)
        except OSError:  # it is no socket
            os.close(number)
            return None
        try:
            wanted = is_tcp(theirs) and self._is_wanted(theirs)
        except BaseException:
            theirs.close()
            raise
        if not wanted:
            theirs.close()
            return None
        return theirs

    def _is_wanted(self, theirs: socket.socket) -> bool:
        if not theirs.getsockname()[1]:  # listen(2) would bind it
            theirs.bind(("", 0))
        why = self._ports.refusal(port := theirs.getsockname()[1])
        if why is not None and port not in self._plain:
            self._plain.add(port)
            _log.log(NOTICE, "no TLS on %s: %s", spell(theirs), why)
        return why is None

    def _open(self, call: Call, theirs: socket.socket, backlog: int) -> int:
        """Open a door for a socket, or have it join one; return its inode."""
        try:
            member = inode(theirs)
            if (why := obstacle(theirs)) is not None:
                raise _NoTls(f"no TLS on {spell(theirs)}: {why}")
            self.check_doors()
            hold = Hold(self._lobby.threads.of(call.tid).pid, call.descriptor)
            place = Place.of(theirs)
            door = next((each for each in self.doors() if each.group.place == place), None)
            if door is None:
                group = Group(theirs, backlog)
                door = Door(self._lobby, group, theirs, self._acceptor)
            elif theirs.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                door.join(theirs, backlog)
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        except BaseException:
            theirs.close()
            raise
        self._doors[member], self._seen[member] = door, hold
        _log.log(NOTICE, "TLS on %s (%s)", spell(theirs), self.carrier)
        return member

    def _bind(self, call: Call) -> None:
        """An address that the program has closed must be free when it binds it again."""
        self.check_doors()
        self._notifications.go_on(call)

    def check_doors(self) -> None:
        """Shut doors whose sockets the program has closed: no call tells of that."""
        for member in list(self._doors):
            self._attempt(self._check_door, member)

    def _check_door(self, member: int) -> None:
        if (hold := still_held(member, self._seen[member])) is not None:
            self._seen[member] = hold
            self._doors[member].look(member)
        else:
            self._leave(member)

    def _leave(self, member: int) -> None:
        del self._seen[member]
        door = self._doors.pop(member)
        if door.leave(member):
            _log.info("the program has closed %s:%s", *door.group.place.name[:2])

    # -- connections

    def _delivered(self, descriptor: Descriptor) -> None:
        self._descriptors[descriptor.inode] = descriptor
        descriptor.has_no_copy = partial(self._copies.has_none, descriptor, self._holds)
        descriptor.ended.add_done_callback(lambda _: self._descriptors.pop(descriptor.inode, None))
        self._watch(descriptor)

    def _look(self, call: Call) -> tuple[Thread, Descriptor | None]:
        """Return the thread that calls, and the connection that it is about, if it is about one."""
        thread, found = self._lobby.threads.look(call.tid, call.descriptor)
        return thread, None if found is None else self._descriptors.get(found)

    def _read(self, call: Call) -> None:
        thread, descriptor = self._look(call)
        if descriptor is None:
            self._notifications.go_on(call)
        else:
            descriptor.held_in.add(thread.pid)
            self._watch(descriptor)
            descriptor.read(call)

    def _shut_down(self, call: Call) -> None:
        if (descriptor := self._look(call)[1]) is not None:
            descriptor.shut_down(call)
        elif call.arguments[1] in {socket.SHUT_RD, socket.SHUT_RDWR}:
            _, member = self._lobby.threads.look(call.tid, call.descriptor)
            if member is None or member not in self._doors:
                self._notifications.go_on(call)
                return
            # A listener listens no more. Done here, or clients would come to it meanwhile.
            self._doors[member].members[member].shutdown(socket.SHUT_RD)
            self._leave(member)
            self._notifications.succeed(call)
        else:
            self._notifications.go_on(call)

    def _splice(self, call: Call) -> None:
        """Refuse it for connections: some kernels lose data (docs/handoff.md, R13)."""
        if self._look(call)[1] is None:
            self._notifications.go_on(call)
        else:
            self._notifications.fail(call, errno.EINVAL)

    def _close(self, call: Call) -> None:
        thread, descriptor = self._look(call)
        if descriptor is not None:
            hold = Hold(thread.pid, call.descriptor)
            if hold == descriptor.hold and descriptor.has_no_copy():
                descriptor.closed_everywhere()
            else:
                descriptor.closed(hold, self._holds() - {descriptor.hold})
                self._watch(descriptor)
        self._notifications.go_on(call)

    def _holds(self) -> set[Hold]:
        """Return where connections are, by numbers whose ends are asked about."""
        holds = (each.hold for each in self._descriptors.values())
        return {hold for hold in holds if hold.number >= self._lobby.numbers.base}

    def check_connections(self) -> None:
        """End connections that the program has closed without a call that tells: by exec, say."""
        for descriptor in list(self._descriptors.values()):
            self._attempt(descriptor.check)
            self._watch(descriptor)

    # -- processes

    def _exit(self, call: Call) -> None:
        if not call.arguments[0] & _SUCCESS:
            try:
                self._orderly.add(process_of(call.tid))
            except OSError:  # for want of a descriptor: this look needs none
                self._orderly.update(p for p in self._holding() if has_thread(p, call.tid))
        self._notifications.go_on(call)

    def _watch(self, descriptor: Descriptor) -> None:
        """Notice the ends of the processes that have a connection."""
        if descriptor.ended.done():
            return
        for pid in descriptor.held_in - self._pidfds.keys():
            try:
                self._pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                self._has_ended(pid)
                continue
            except OSError:  # a shortage: `check_connections` calls again
                continue
            loop = asyncio.get_running_loop()
            loop.add_reader(self._pidfds[pid], self._has_ended, pid)

    def _has_ended(self, pid: int) -> None:
        if (pidfd := self._pidfds.pop(pid, None)) is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        for descriptor in [each for each in self._descriptors.values() if pid in each.held_in]:
            self._attempt(descriptor.left, pid, in_order=pid in self._orderly)
            self._watch(descriptor)
        self._orderly.discard(pid)

    def forget_processes(self) -> None:
        """Forget ends of processes that had no connection."""
        self._copies.forget()
        self._orderly = {
            pid for pid in self._orderly if pid in self._holding() or os.path.exists(f"/proc/{pid}")
        }

    def _holding(self) -> set[int]:
        return {pid for each in self._descriptors.values() for pid in each.held_in}

    async def part(self) -> None:
        """End everything, once no process is left: what the program has ended, in good order."""
        for pid in list(self._pidfds):
            self._has_ended(pid)
        for descriptor in list(self._descriptors.values()):
            descriptor.left_by_all(in_order=descriptor.held_in <= self._orderly)
        doors = self.doors()
        self.check_doors()
        await asyncio.gather(*self._lobby.delivering, return_exceptions=True)
        for door in doors:
            await door.acceptor.drain(0)
