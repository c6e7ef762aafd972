"""A server's configuration: read in this process, or in a custodian that alone has the keys."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from tlsify.config import KtlsMode
from tlsify.connection import establish
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.isolation.custodian import Loaded, Task
from tlsify.isolation.custody import Custody, leave_all
from tlsify.isolation.remote_engine import IsolatedServer, keep_only
from tlsify.system.process import forgo_rights
from tlsify.system.sandbox import Reach, Sandboxing, confine, renounce
from tlsify.trust import store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.system.process import Account

_log = logging.getLogger("tlsify")


class Isolation(NamedTuple):
    """How the keys of a server are kept from the processes that have its connections.

    Attributes:
        key_files: called in the custodian; returns the files that `load` reads keys from.
        private: descriptors that it reads keys from.
        holders: processes that do handshakes.
        sandboxing: whether these give up what they do not need.
        account: their user; the custodian keeps its rights, to read keys again.
    """

    key_files: Callable[[], Sequence[Path]]
    private: Sequence[int]
    holders: int
    sandboxing: Sandboxing
    account: Account | None


class Configuration:
    """What a server is configured to be, as the files are at the moment."""

    def __init__(
        self,
        load: Callable[[], ServerConfig],
        policy: KtlsPolicy,
        isolation: Isolation | None = None,
    ) -> None:
        """Prepare.

        Args:
            load: reads it; raises a TlsifyError to refuse.
            policy: when to offload.
            isolation: of the keys; None has this process read them.
        """
        self._read = load
        self._policy = policy
        self._previous: ServerConfig | None = None
        self._key_files: tuple[Path, ...] = ()
        self._custody: Custody | None = None
        if isolation is not None:
            self._custody = Custody(
                Task(
                    lambda previous: self._prepared(previous, isolation),
                    lambda config: _confine_holder(config, isolation),
                    isolation.holders,
                    isolation.private,
                )
            )

    def load(self) -> ServerConfig:
        """Read it anew; tickets given with the one before stay good if they can.

        Raises:
            ConfigError: it is unusable.
            KtlsUnavailable: the policy requires the kernel, which cannot.
            WorkerError: the custodian has ended.
            ResourceError: there can be no process for the keys.
        """
        refusal = host_refusal(self._policy)  # the probe also loads the kernel's module
        if self._custody is None:
            config = self._read()
            establish.prepare(config, self._policy, self._previous)
        else:
            config, self._key_files = self._custody.load()
        if refusal is not None and self._policy.mode is KtlsMode.REQUIRE:
            raise refusal
        self._previous = config
        return config

    def _prepared(self, previous: ServerConfig | None, isolation: Isolation) -> Loaded:
        """Read it in the custodian."""
        config = self._read()
        establish.prepare(config, self._policy, previous)
        choices = establish.choices(config, self._policy)
        return Loaded(config, choices, tuple(isolation.key_files()))

    def custodians(self) -> set[int]:
        """Return the child process that `load` has read keys in; none without isolation."""
        return set() if self._custody is None else {self._custody.pid}

    def losses(self) -> int:
        """Return how many custodians have ended unbidden: `load` starts another one."""
        return 0 if self._custody is None else self._custody.deaths()

    def warn_of_readable_keys(self, remedy: str = "use --user, or a kernel with Landlock") -> None:
        """Warn if this process, which is not to have the keys, could read them from their files.

        Args:
            remedy: an imperative, for the message.
        """
        for path in self._key_files:
            if _is_readable(path):
                _log.warning(
                    "--isolate-key keeps %s out of memory only: processes with connections may "
                    "read the file; %s",
                    path,
                    remedy,
                )
                return


def retire(config: ServerConfig) -> None:
    """Leave the key holders of a configuration, in the process that forks, for good."""
    if isinstance(config, IsolatedServer):
        config.rendezvous.leave()


def leave_holders(of_others_than: ServerConfig | None = None) -> None:
    """Leave the custodian and key holders in this process, a forked one, so that they can end.

    Args:
        of_others_than: the configuration that this process goes on with; None leaves all.
    """
    kept = of_others_than if isinstance(of_others_than, IsolatedServer) else None
    keep_only(None if kept is None else kept.rendezvous)
    leave_all()


def _is_readable(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _confine_holder(config: ServerConfig, isolation: Isolation) -> None:
    """Drop, in a holder, all rights but its memory and what verifies clients."""
    if isolation.sandboxing is Sandboxing.OFF:
        forgo_rights()
    else:
        renounce()
    if isolation.account is not None:
        isolation.account.become()
    trusted = [] if config.client_trust is None else store.read_later(config.client_trust)
    confine(Reach(read=tuple(map(str, trusted))), isolation.sandboxing)
