"""The custodian as a server sees it: what it has loaded, and whether it lives."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from tlsify.codepoints import Aead
from tlsify.credentials.parse import parse_certificates
from tlsify.errors import ResourceError, TlsifyError, WorkerError, said
from tlsify.isolation import wire
from tlsify.isolation.custodian import IGNORED, LOAD, MAX_MESSAGE, Task, be_custodian
from tlsify.isolation.remote_engine import IsolatedServer, Rendezvous, ShownCertificate
from tlsify.system import scm_rights
from tlsify.system.process import fork, let_go

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger("tlsify")


class Isolated(NamedTuple):
    """The same in all other processes.

    Attributes:
        config: without keys.
        key_files: files that these processes should not be able to read.
    """

    config: IsolatedServer
    key_files: tuple[Path, ...]


class Custody:
    """The custodian as a server sees it, which forks it before it reads a key.

    Attributes:
        pid: of the last one, a child of this process; -1 before the first `load`.
    """

    def __init__(self, task: Task) -> None:
        """Prepare; the first `load` forks."""
        self.pid = -1
        self._task = task
        self._control: socket.socket | None = None
        self._deaths = 0
        _known.add(self)

    def load(self) -> Isolated:
        """Load the configuration, and start holders for it.

        Raises:
            ConfigError: it is refused; earlier holders go on.
            WorkerError: the custodian has ended.
            ResourceError: there can be no process.
            AgentError: this process can take no more descriptors.
        """
        if self.deaths() and self._control is None and self._task.private:
            raise WorkerError(
                "the process that alone had the key, from --key-fd, has ended",
                hint="start the server anew",
            )
        if self._control is None:
            self._control = self._start()
        try:
            self._control.send(LOAD, socket.MSG_NOSIGNAL)
            answer = self._receive(self._control)
        except (OSError, EOFError) as exc:
            self.deaths()
            raise WorkerError(
                f"the process that reads the keys has ended: {said(exc)}",
                hint="see what it said before",
            ) from exc
        except TlsifyError:
            self.leave()  # the rest of the answer would be taken for the next one
            raise
        if isinstance(answer, TlsifyError):
            raise answer
        return answer

    def deaths(self) -> int:
        """Return how many custodians have ended; the next `load` starts another one."""
        if self._control is not None:
            poller = select.poll()
            poller.register(self._control, 0)
            if poller.poll(0):
                _log.error("the process that reads the keys has ended")
                self._control.close()
                self._control = None
                self._deaths += 1
        return self._deaths

    def leave(self) -> None:
        """End the custodian, with the last of its holders."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        try:
            pid = fork(ignored=IGNORED)
        except OSError as exc:
            ours.close()
            theirs.close()
            raise ResourceError(exc, "no process for the keys") from exc
        if pid == 0:
            be_custodian(self._task, theirs)
        self.pid = pid
        theirs.close()
        for number in self._task.private:
            with contextlib.suppress(OSError):
                let_go([number])
        return ours

    def _receive(self, control: socket.socket) -> Isolated | TlsifyError:
        """Receive certificates one by one, and then the rest, with the way to the holders.

        Returns:
            The error if the custodian refuses.
        """
        pairs: list[ShownCertificate] = []
        files: list[Path] = []
        while True:
            raw, number = scm_rights.receive(control, MAX_MESSAGE)
            if not raw:
                raise EOFError("no answer")
            kind, *parts = (bytes(part) for part in wire.read_vectors(memoryview(raw)))
            if kind == b"error":
                return wire.revive(parts)
            if kind == b"pair":
                chain, ocsp = parts
                certificates = parse_certificates(chain, "a certificate")
                pairs.append(ShownCertificate(certificates, ocsp or None))
            elif kind == b"file":
                files.append(Path(os.fsdecode(parts[0])))
            elif number is not None:
                config = _config(pairs, parts, Rendezvous(number))
                return Isolated(config, tuple(files))


# Those that this process has, since its forks must not load with them.
_known: WeakSet[Custody] = WeakSet()


def leave_all() -> None:
    """Leave the custodian in a forked process, which is not to have anything read."""
    for each in list(_known):
        each.leave()


def _config(
    pairs: list[ShownCertificate], parts: Sequence[bytes], rendezvous: Rendezvous
) -> IsolatedServer:
    timeout, key_log, protocols, choices, provisional = parts
    found = tuple(
        tuple(Aead(bytes(name).decode()) for name in wire.read_vectors(memoryview(choice)))
        for choice in wire.read_vectors(memoryview(choices))
    )
    return IsolatedServer(
        key_pair=pairs[0],
        more_key_pairs=tuple(pairs[1:]),
        alpn=tuple(map(bytes, wire.read_vectors(memoryview(protocols)))),
        aeads=found[0],
        timeout=float(timeout),
        key_log=Path(os.fsdecode(key_log)) if key_log else None,
        provisional=bool(provisional),
        rendezvous=rendezvous,
        choices=found,
    )
