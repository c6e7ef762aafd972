"""The custodian: a process that alone reads private keys, and forks the holders that use them."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from tlsify.errors import ConfigError, ResourceError, TlsifyError
from tlsify.isolation import wire
from tlsify.isolation.holder import CHORE_PAUSE, Holder
from tlsify.metrics.counters import Event, count
from tlsify.system import scm_rights
from tlsify.system.children import be_child
from tlsify.system.process import forgo_rights, fork, let_go, protect_process
from tlsify.system.signal_pipe import SignalPipe
from tlsify.tls.context import drop_past_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from tlsify.codepoints import Aead
    from tlsify.config import ServerConfig

_log = logging.getLogger("tlsify")

# What ends the server it belongs to, or is sent to all of its processes: custodian and holders end
# when they are no longer needed.
IGNORED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# A holder that ends sooner than this after its start is replaced only then; in seconds.
_PROMPT = 1.0
LOAD = b"load"
# A chain of certificates that OpenSSL would send has 137 KiB in PEM.
MAX_MESSAGE = 2**18


class Loaded(NamedTuple):
    """A configuration in the custodian.

    Attributes:
        config: with keys, and ready for its first connection.
        choices: the record protection that its handshakes may negotiate.
        key_files: where the keys were read.
    """

    config: ServerConfig
    choices: tuple[tuple[Aead, ...], ...]
    key_files: tuple[Path, ...] = ()


class Task(NamedTuple):
    """What a custodian does, and with what.

    Attributes:
        load: called in the custodian with the previous configuration; raises a TlsifyError to
            refuse.
        settle: called in each holder before its first handshake, to give up rights.
        holders: how many processes do the handshakes of a configuration.
        private: descriptors that only the custodian keeps.
    """

    load: Callable[[ServerConfig | None], Loaded]
    settle: Callable[[ServerConfig], None]
    holders: int
    private: Collection[int] = ()


def _certificates(loaded: Loaded) -> list[bytearray]:
    """Write the certificates, a message each.

    Raises:
        ConfigError: one is too long for a message.
    """
    pairs = (loaded.config.key_pair, *loaded.config.more_key_pairs)
    found = [wire.vectors([b"pair", it.certificate_pem(), it.ocsp or b""]) for it in pairs]
    if max(map(len, found)) > MAX_MESSAGE:
        raise ConfigError(
            "a certificate chain is too long for --isolate-key",
            hint=f"leave out what is not of the chain: it has {MAX_MESSAGE} bytes at most",
        )
    return found


def _describe(loaded: Loaded) -> bytearray:
    """Write what is no secret, without certificates."""
    config = loaded.config
    choices = [wire.vectors([aead.value.encode() for aead in each]) for each in loaded.choices]
    return wire.vectors(
        [
            b"ready",
            repr(config.timeout).encode(),
            b"" if config.key_log is None else os.fsencode(config.key_log),
            wire.vectors(config.alpn),
            wire.vectors(choices),
            b"provisional" if config.provisional else b"",
        ]
    )


# -- in the custodian


def be_custodian(task: Task, control: socket.socket) -> NoReturn:
    """Run as the custodian, in a forked child."""

    def work() -> None:
        protect_process()
        forgo_rights()
        let_go(_open_descriptors() - {0, 1, 2, control.fileno(), *task.private})
        _allow_descriptors()
        _Custodian(task, control).run()

    be_child(work, "the process that reads the keys")


def _open_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _allow_descriptors() -> None:
    """Raise the limit: a holder has a descriptor for each handshake under way."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Family(NamedTuple):
    """The holders of one configuration, and their end of the rendezvous."""

    loaded: Loaded
    rendezvous: socket.socket


class _Custodian:
    """Loads on demand, and replaces holders that die."""

    def __init__(self, task: Task, control: socket.socket) -> None:
        self._task = task
        self._control: socket.socket | None = control
        self._previous: ServerConfig | None = None
        self._families: dict[int, tuple[_Family, float]] = {}  # by pid, with the time of its start
        self._due: list[tuple[float, _Family]] = []
        self._pipe = SignalPipe()

    def run(self) -> None:
        """Serve until the server has left, and the last holder has ended."""
        self._pipe.catch([signal.SIGCHLD])
        while self._control is not None or self._families or self._due:
            poller = select.poll()
            poller.register(self._pipe.reader, select.POLLIN)
            if self._control is not None:
                poller.register(self._control, select.POLLIN)
            now = time.monotonic()
            wait = min([CHORE_PAUSE, *(max(moment - now, 0) for moment, _ in self._due)])
            ready = [number for number, _ in poller.poll(wait * 1000 + 1)]
            drop_past_keys(time.monotonic())
            if self._pipe.reader in ready:
                self._pipe.read()
                self._reap()
            if self._control is not None and self._control.fileno() in ready:
                self._heed(self._control)
            self._replace()

    def _heed(self, control: socket.socket) -> None:
        asked = b""
        with contextlib.suppress(ConnectionError):
            asked = control.recv(len(LOAD))
        if not asked:
            control.close()
            self._control = None
            return
        try:
            loaded = self._task.load(self._previous)
            certificates = _certificates(loaded)
            theirs = self._start_holders(loaded)
        except TlsifyError as exc:
            self._tell(wire.vectors([b"error", *wire.describe(exc)]))
        except Exception as exc:  # noqa: BLE001 - the server goes on with what it has
            _log.exception("bug while keys were read")
            bug = TlsifyError(f"unexpected {type(exc).__name__} while keys were read")
            self._tell(wire.vectors([b"error", *wire.describe(bug)]))
        else:
            with theirs:
                for each in certificates:
                    self._tell(each)
                for path in loaded.key_files:
                    self._tell(wire.vectors([b"file", os.fsencode(path.absolute())]))
                self._tell(_describe(loaded), theirs.fileno())
            self._previous = loaded.config

    def _tell(self, message: bytearray, descriptor: int | None = None) -> None:
        if self._control is None:
            return
        with contextlib.suppress(ConnectionError):  # the server has ended
            scm_rights.send(self._control, message, descriptor)

    def _start_holders(self, loaded: Loaded) -> socket.socket:
        """Start the holders; return the server's end of their rendezvous.

        Raises:
            ResourceError: there can be no process or descriptor.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as exc:
            raise ResourceError(exc, "no key holder") from exc
        family = _Family(loaded, ours)
        gc.freeze()  # what is here by now stays: holders need not copy its pages
        try:
            for _ in range(self._task.holders):
                self._fork(family, theirs)
        except OSError as exc:
            ours.close()
            theirs.close()  # started holders end by that
            raise ResourceError(exc, "no process for a key holder") from exc
        return theirs

    def _fork(self, family: _Family, theirs: socket.socket | None = None) -> None:
        pid = fork(ignored=IGNORED)
        if pid == 0:
            be_child(partial(self._be_holder, family, theirs), "a key holder")
        self._families[pid] = family, time.monotonic()

    def _be_holder(self, family: _Family, theirs: socket.socket | None) -> None:
        self._pipe.drop()
        if self._control is not None:
            self._control.close()
        if theirs is not None:
            theirs.close()
        for other, _ in self._families.values():
            if other is not family:
                other.rendezvous.close()
        self._task.settle(family.loaded.config)
        Holder(family.rendezvous, family.loaded.config, family.loaded.choices).run()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # there are none left
            while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
                self._bury(found[0], os.waitstatus_to_exitcode(found[1]))

    def _bury(self, pid: int, code: int) -> None:
        found = self._families.pop(pid, None)
        if found is None:
            return
        family, started = found
        if code == 0:  # no process is left that could ask
            others = [
                *(other for other, _ in self._families.values()),
                *(it for _, it in self._due),
            ]
            if all(other is not family for other in others):
                family.rendezvous.close()
            return
        _log.warning("key holder %d ended with status %d and is replaced", pid, code)
        count(Event.KEY_HOLDER_RESTARTED)
        self._due.append((max(started + _PROMPT, time.monotonic()), family))

    def _replace(self) -> None:
        now = time.monotonic()
        due = [each for each in self._due if each[0] <= now]
        for each in due:
            self._due.remove(each)
            try:
                self._fork(each[1])
            except OSError as exc:
                _log.warning("cannot fork a key holder: %s", exc)
                self._due.append((now + _PROMPT, each[1]))
