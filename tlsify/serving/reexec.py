"""Re-exec: a new program in this process, its inheritance, and a dry run before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self

from tlsify.errors import ConfigError
from tlsify.serving.generation import SIGNALS, STOP_SIGNALS
from tlsify.system import listening
from tlsify.system.process import StopRequests

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tlsify.addresses import Address

_VARIABLE = "TLSIFY_SUCCESSION"
# Name of the sockets that systemd has passed.
SYSTEMD = "systemd"


@dataclass(slots=True, eq=False)
class Inherited:
    """State that passes from program to program in one process.

    Attributes:
        sockets: listening, by the address as it was given.
        counters: descriptor of the counters' memory; -1 if there is none.
        workers: the former program's, pid and slot in the counters.
        is_rehearsal: whether this is another process, which only has to find out if it would start.
    """

    sockets: dict[str, list[socket.socket]] = field(default_factory=dict)
    counters: int = -1
    workers: dict[int, int] = field(default_factory=dict)
    is_rehearsal: bool = False
    _unclaimed: dict[str, list[socket.socket]] = field(default_factory=dict)
    _requests: StopRequests = field(default_factory=StopRequests)
    _is_ending: bool = False

    @classmethod
    def inherit(cls) -> Inherited:
        """Take over the previous program's descriptors; return an empty estate if there was none.

        Raises:
            ConfigError: the descriptors are not those that were passed on.
        """
        text = os.environ.pop(_VARIABLE, "")
        if not text:
            return cls()
        try:
            left: dict[str, Any] = json.loads(text)
            is_rehearsal = left["pid"] != os.getpid()
            if is_rehearsal and left["pid"] != os.getppid():
                if left.get("is_rehearsal"):
                    raise ChildProcessError("the server that has this one tried is gone")
                return cls()
            counters = int(left["counters"])
            if counters != -1:
                os.set_inheritable(counters, False)
            return cls(
                counters=counters,
                workers={int(pid): int(slot) for pid, slot in left["workers"].items()},
                is_rehearsal=is_rehearsal,
                _unclaimed={
                    name: [listening.adopt(number) for number in numbers]
                    for name, numbers in left["sockets"].items()
                },
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ConfigError(
                f"{_VARIABLE} is not what an earlier program has left: {exc}",
                hint="leave that variable unset",
            ) from exc

    def await_workers(self) -> None:
        """Make a request to end wait for the former program's workers, while there are no new ones.

        They are asked to drain; another request ends this process at once.
        """
        if self.workers and not self.is_rehearsal:
            for number in STOP_SIGNALS:
                signal.signal(number, self._end)

    def _end(self, number: int, _: object) -> None:
        if self._requests.insist():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._is_ending:
            return
        self._is_ending = True
        for pid in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        os._exit(0)

    def claim(self, name: str, make: Callable[[], list[socket.socket]]) -> list[socket.socket]:
        """Return the sockets that are there under a name, or make them."""
        found = self._unclaimed.pop(name, None)
        self.sockets[name] = make() if found is None else found
        return self.sockets[name]

    def listen(
        self, name: str, address: Address | None, *, deferred: bool = False
    ) -> list[socket.socket]:
        """Return the sockets that listen on an address, or listen there; none without an address.

        Raises:
            NetworkError: it cannot be listened on.
        """
        if address is None:
            return []
        make = partial(listening.listen_on, address, deferred=deferred)
        return self.claim(f"{name} {address}", make)

    def drop_unclaimed(self) -> None:
        """Close unclaimed sockets; their waiting connections are reset."""
        for sockets in self._unclaimed.values():
            for sock in sockets:
                sock.close()
        self._unclaimed.clear()

    def close(self) -> None:
        """Close all of it."""
        self.drop_unclaimed()
        for sockets in self.sockets.values():
            for sock in sockets:
                sock.close()
        if self.counters != -1:
            os.close(self.counters)
            self.counters = -1

    def __enter__(self) -> Self:
        """Close all of it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all of it."""
        self.close()

    def rehearse(self) -> int:
        """Start our command line anew in another process; return its pid.

        It ends with 0 if it would have started.

        Raises:
            OSError: there can be no process.
        """
        path, words = _command()
        with self._inheritable():
            return os.posix_spawn(
                path,
                words,
                self._environment({}, is_rehearsal=True),
                setsigmask=[],
                setsigdef=SIGNALS,
            )

    def succeed(self, workers: dict[int, int]) -> NoReturn:
        """Start our command line anew in this process, which keeps its number and its children.

        Args:
            workers: pid and slot in the counters.

        Raises:
            OSError: it cannot be started; all is as it was.
        """
        path, words = _command()
        sys.stdout.flush()
        with self._inheritable(), _nobody_listens():
            os.execve(path, words, self._environment(workers))

    def _environment(
        self, workers: dict[int, int], *, is_rehearsal: bool = False
    ) -> dict[str, str]:
        numbers = {name: [s.fileno() for s in found] for name, found in self.sockets.items()}
        left = {
            "pid": os.getpid(),
            "sockets": numbers,
            "counters": self.counters,
            "workers": workers,
            "is_rehearsal": is_rehearsal,
        }
        return {**os.environ, _VARIABLE: json.dumps(left)}

    @contextlib.contextmanager
    def _inheritable(self) -> Iterator[None]:
        numbers = [sock.fileno() for found in self.sockets.values() for sock in found]
        if self.counters != -1:
            numbers.append(self.counters)
        try:
            for number in numbers:
                os.set_inheritable(number, True)
            yield
        finally:
            for number in numbers:
                os.set_inheritable(number, False)


@contextlib.contextmanager
def _nobody_listens() -> Iterator[None]:
    """Signals wait for the program that begins; a request to end does not, whatever it hangs in."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _command() -> tuple[str, list[str]]:
    """Return the interpreter's path and the words that this process was started with."""
    if not sys.executable:
        raise FileNotFoundError(2, "the interpreter's own path is unknown")
    return sys.executable, [sys.executable, *sys.orig_argv[1:]]
