"""Tests of the door of listen: with programs of a few lines, and with real ones."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil
import pytest

from tests.cli.harness import LOOPBACK, PATIENCE, insist, pause, read_all, read_line
from tests.cli.test_listen import Listening
from tests.doubles import Endpoint, backlog, until

if TYPE_CHECKING:
    from tests.cli.conftest import Pki

# What a forked process does, the client says: "h" finishes its handshake; "k" has a keeper forked
# that outlives it until the client ends; "o" has it become a program that leaves another behind;
# "e" ends it. All is echoed but the last two.
PROGRAM = """
import logging, os, select, signal, sys
from tlsify.system import listening
from tlsify.cli import door, places
from tlsify.system.process import fork

logging.basicConfig(format="%(message)s")
door._PAUSE = 0.01
exec(sys.argv[1])

def serve(sock, lifeline):
    while said := sock.recv(1):
        if said == b"h":
            os.write(lifeline, b"x")
        elif said == b"k" and fork() == 0:
            poller = select.poll()
            poller.register(sock, select.POLLRDHUP)
            poller.poll()
            os._exit(0)
        elif said == b"o":
            os.dup2(sock.fileno(), 3)
            os.execvp("sh", ["sh", "-c", "sleep 1000 & echo $! >&3"])
        elif said == b"e":
            break
        sock.send(said)
    return 0

def reload():
    os.write(1, b"reload\\n")

door.Door([listening.listen("127.0.0.1", 0)], serve, reload, door.DoorLimits(*LIMITS)).run()
"""


class Hall:
    """A running door, behind which is the program above."""

    def __init__(
        self,
        limit: int,
        settings: str = "",
        per_address: int | None = None,
        patience: float | None = None,
    ) -> None:
        """Start it, and wait until it listens."""
        given = f"{settings}\nLIMITS = {limit}, {per_address}, {patience}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, given], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.port = int(read_line(self.process.stdout).rpartition(":")[2])
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        """Accept clients."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, with all that is behind it."""
        self.stack.close()
        self.process.kill()
        self.process.communicate()

    def dial(self, source: str = LOOPBACK) -> socket.socket:
        """Connect."""
        sock = socket.create_connection((LOOPBACK, self.port), PATIENCE, (source, 0))
        return self.stack.enter_context(sock)

    def enter(self, source: str = LOOPBACK, orders: bytes = b"h") -> socket.socket:
        """Connect, give orders and wait until they are carried out."""
        return order(self.dial(source), orders)

    def children(self) -> list[int]:
        """Return which processes it has forked, and which still run."""
        pid = self.process.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def take_turns(self) -> None:
        """Wait until it has looked at all that is there by now."""
        for _ in range(2):
            self.process.send_signal(signal.SIGHUP)
            assert read_line(self.process.stdout) == "reload\n"

    def listens(self) -> bool:
        """Return whether it accepts connections."""
        with suppress(AssertionError):
            return self.backlog() >= 0
        return False

    def backlog(self) -> int:
        """Return how many connections wait in its listening socket."""
        return backlog(self.port)

    def end(self) -> str:
        """Ask it to end; return what it has said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, said.decode()
        return said.decode()

    def end_with_clients(self) -> str:
        """Close all clients, and ask it to end."""
        self.stack.close()
        return self.end()


def order(sock: socket.socket, orders: bytes) -> socket.socket:
    """Run orders, letter by letter."""
    for each in orders:
        sock.sendall(bytes([each]))
        assert sock.recv(1) == bytes([each])
    return sock


# -- handshakes that take too long

_QUICK = "places._PATIENCE = 0.05"  # which is long enough here
_NEVER = "places._PATIENCE = 1000.0"


def test_silent_connections_make_room() -> None:
    """Clients from elsewhere are served beside them, and each costs one of them its place."""
    with Hall(3, _QUICK) as hall:
        silent = [hall.dial() for _ in range(3)]
        until(lambda: len(hall.children()) == 3)
        for number in (1, 2):
            hall.enter(f"127.0.0.{1 + number}")
            assert read_all(silent[number - 1]) == b""
        assert len(hall.children()) == 3
        order(silent[2], b"h")
        assert "places are short" in hall.end_with_clients()


def test_silent_connections_of_the_same_address() -> None:
    """Behind one address, too, who has something to say gets his turn."""
    with Hall(2, _QUICK) as hall:
        for _ in range(5):
            hall.dial()
        hall.enter()


def test_moment_that_passes_between_two_looks() -> None:
    """A handshake may become too long after we have looked, and before we wait: it makes room."""
    settings = f"""{_QUICK}
class Late(door.Door):
    def _look_after(self, now):
        super()._look_after(now - 1)
door.Door = Late
"""
    with Hall(1, settings) as hall:
        silent = hall.dial()
        hall.enter("127.0.0.2")
        assert read_all(silent) == b""


def test_handshakes_in_time() -> None:
    """They keep their places, and newcomers wait."""
    with Hall(2, _NEVER) as hall:
        first, second = hall.enter(), hall.dial()
        until(lambda: len(hall.children()) == 2)
        third = hall.dial("127.0.0.2")
        hall.take_turns()
        assert (hall.backlog(), len(hall.children())) == (0, 2)
        order(second, b"h")
        hall.take_turns()
        fourth = hall.dial("127.0.0.3")
        hall.take_turns()
        assert (hall.backlog(), len(hall.children())) == (1, 2)
        first.close()
        order(third, b"h")
        second.close()
        order(fourth, b"h")


def test_handshake_that_ends_by_itself() -> None:
    """Its process has closed all that it had, and is not known to have ended: newcomers wait."""
    settings = """places._PATIENCE = 0.0
class Late(door.Door):
    def _bury(self, *ended):
        self.ended = ended
        os.write(1, b"ended\\n")
    def _heed(self, numbers):
        if signal.SIGUSR1 in numbers:
            super()._bury(*self.ended)
        super()._heed(numbers)
door.Door = Late
"""
    with Hall(1, settings) as hall:
        hall.dial().close()
        assert read_line(hall.process.stdout) == "ended\n"
        newcomer = hall.dial("127.0.0.2")
        hall.take_turns()
        hall.process.send_signal(signal.SIGUSR1)
        order(newcomer, b"h")
        hall.stack.close()
        assert read_line(hall.process.stdout) == "ended\n"
        hall.process.send_signal(signal.SIGUSR1)
        assert "stalled" not in hall.end()


def test_flood() -> None:
    """Whoever floods the door waits in vain, and is told so; others find places at once."""
    with Hall(8, f"{_QUICK}; logging.root.setLevel(logging.INFO)") as hall:
        pause(hall.process)
        flood = [hall.dial() for _ in range(60)]
        hall.process.send_signal(signal.SIGCONT)
        until(lambda: len(select.select(flood, [], [], 0)[0]) >= 60 - 8 - 17)
        for _ in range(5):
            hall.enter("127.0.0.2").sendall(b"e")
        said = hall.end_with_clients()
        assert said.count("places are short") == 1
        assert said.count("connection refused: all places for connections are taken") >= 5
        assert said.count("connection refused: its handshake has stalled") >= 5


def test_handshake_done_in_the_last_moment() -> None:
    """What is in the pipe already counts, though nobody has read it."""
    settings = f"""{_QUICK}
class Late(door.Door):
    def _wait(self):
        found = super()._wait()
        return [] if self._places and self._places.free == 0 else found
    def _look_after(self, now):
        if self._places.free == 0:
            newcomer = door.Newcomer(self._listeners[0].dup(), b"x", "x", now)
            self._waiting = self._waiting or [newcomer]
            now += 1000
        super()._look_after(now)
door.Door = Late
"""
    with Hall(1, settings) as hall:
        sock = hall.dial()
        sock.sendall(b"h")
        assert sock.recv(1) == b"h"
        order(sock, b"xyz")


# -- places and keepers


def test_keeper_has_its_place() -> None:
    """A place is free when both the program and its keeper have ended."""
    with Hall(2) as hall:
        first = hall.enter(orders=b"hk")
        first.sendall(b"e")
        hall.enter()
        until(lambda: len(hall.children()) == 1)
        hall.take_turns()
        third = hall.dial()
        hall.take_turns()
        assert (hall.backlog(), len(hall.children())) == (1, 1)
        first.close()
        order(third, b"h")


def test_keepers_of_an_address() -> None:
    """They count for its limit, too; other addresses are not the worse for it."""
    with Hall(10, per_address=1) as hall:
        first = hall.enter(orders=b"hk")
        first.sendall(b"e")
        until(lambda: not hall.children())
        assert read_all(hall.dial()) == b""
        hall.enter("127.0.0.2")
        first.close()

        def served() -> bool:
            with suppress(ConnectionError), hall.dial() as sock:
                sock.sendall(b"h")
                return sock.recv(1) == b"h"
            return False

        until(served)


def test_drain_waits_for_keepers() -> None:
    """They have something to deliver; a second request does not wait."""
    for insists in (False, True):
        with Hall(2) as hall:
            sock = hall.enter(orders=b"hk")
            sock.sendall(b"e")
            until(lambda hall=hall: not hall.children())  # type: ignore[misc]
            hall.process.send_signal(signal.SIGTERM)
            until(lambda hall=hall: not hall.listens())  # type: ignore[misc]
            assert hall.process.poll() is None
            if insists:
                insist(hall.process)
            else:
                sock.close()
            assert hall.process.wait(PATIENCE) == 0


def test_orphans_of_programs() -> None:
    """What a program leaves behind takes no place, and is none of the door's children."""
    with Hall(1) as hall:
        clients = [hall.dial() for _ in range(3)]
        for sock in clients:
            sock.sendall(b"o")
        orphans = [int(sock.makefile().readline()) for sock in clients]
        try:
            until(lambda: not hall.children())
            assert all(psutil.pid_exists(pid) for pid in orphans)
        finally:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
        hall.end()


# -- want


@pytest.mark.parametrize("what", ["door.fork", "os.pipe2"])
def test_no_process_to_be_had(what: str) -> None:
    """Whoever has connected waits until there is one again."""
    settings = f"""
real, left = {what}, [3]
def failing(*words):
    if left[0] and door.__name__ and (not words or logging.root.handlers):
        left[0] -= 1
        raise BlockingIOError(11, "planted")
    return real(*words)
class Failing(door.Door):
    def run(self):
        {what} = failing
        super().run()
door.Door = Failing
"""
    with Hall(2, settings) as hall:
        hall.enter()
        assert hall.end_with_clients().count("planted") == 3


def test_nothing_to_be_had_to_wait_with() -> None:
    """Likewise where the kernel has no memory for one more descriptor to be waited for."""
    settings = """
import stat
class Poller:
    def __init__(self, real):
        self.real, self.left = real, 3
    def __getattr__(self, name):
        return getattr(self.real, name)
    def register(self, number, events):
        fifo = stat.S_ISFIFO(os.fstat(number).st_mode)
        if fifo and number != door_made._pipe.reader and self.left:
            self.left -= 1
            raise OSError(12, "planted")
        self.real.register(number, events)
class Failing(door.Door):
    def run(self):
        global door_made
        door_made, self._poller = self, Poller(self._poller)
        super().run()
door.Door = Failing
"""
    with Hall(2, settings) as hall:
        hall.enter()
        assert hall.end_with_clients().count("planted") == 3


# -- the command


def test_honest_client_beside_silent_ones(pki: Pki) -> None:
    """It need not wait for their time to be over, nor their number to be small."""
    words = ("--limit", "3", "--timeout", "600")
    with Listening(pki.good, *words) as server, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(server.dial())
        with server.connect(pki, "127.0.0.2") as stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
        with server.connect(pki) as stream:
            stream.sendall(b"y")
            assert stream.recv(1) == b"y"
        server.process.kill()


def test_keeper_of_a_client_that_stays(pki: Pki) -> None:
    """Where the program has ended its keeper has the place, until it has ended, too."""
    program = ("sh", "-c", "read begin; read end")
    with Listening(pki.good, "--limit", "1", program=program) as server:
        with server.connect(pki) as stream:
            stream.sendall(b"begin\n")
            (pid,) = server.children()
            (keeper,) = psutil.Process(pid).children()
            stream.sendall(b"end\n")
            assert read_all(stream) == b""
            until(lambda: not server.children())

            def visit() -> bool:
                with server.connect(pki):
                    return keeper.is_running() and keeper.status() != psutil.STATUS_ZOMBIE

            visiting = Endpoint(visit)
            until(lambda: backlog(server.port) == 1)
            assert keeper.is_running()
        assert visiting.result(PATIENCE) is False
