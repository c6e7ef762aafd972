"""Requests -> configurations, made once for all that ask for the same."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

from tlsify.agent import wire
from tlsify.codepoints import DEFAULT_AEADS, Aead, ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.connection import establish
from tlsify.credentials import crls
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import ConfigError, ResourceError, TlsifyError
from tlsify.names import ReferenceIdentifier
from tlsify.trust import store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Config: TypeAlias = ClientConfig | ServerConfig

_log = logging.getLogger("tlsify")

# A client's Context with the system's trust anchors takes 11 ms, and half a megabyte.
_KEPT = 64
# Seconds after which files are read again, even if they look as they did.
_FRESH = 60.0
# Seconds for which files may be unusable without a warning: a certificate and its key are two
# files, and one is replaced after the other.
_SETTLE = 0.5
# The fields of requests that name files or folders.
_PATHS = ("trust", "client_trust", "crls", "certificate", "key")


class _Made(NamedTuple):
    config: Config
    until: float
    stamps: tuple[object, ...]


class Configs:
    """Makes and keeps what requests ask for; any number of threads may ask."""

    def __init__(
        self,
        key_pairs: Mapping[str, KeyPair] | None = None,
        *,
        alpn: tuple[bytes, ...] = (),
        resumption: bool = False,
    ) -> None:
        """Store the agent's own settings.

        Args:
            key_pairs: for servers, by name; the first is the default.
            alpn: for servers whose requests have none.
            resumption: whether servers give tickets.
        """
        self._key_pairs = dict(key_pairs or {})
        self._alpn = alpn
        self._resumption = resumption
        self._files: dict[str, tuple[Path, Path]] = {}
        self._read: dict[str, tuple[object, ...]] = {}  # stamps of the files when last read
        # Why a changed key pair is not used, and when that is worth a warning.
        self._refused: dict[str, tuple[ConfigError, float]] = {}
        self._policy = KtlsPolicy()
        self._lock = threading.Lock()
        self._made: OrderedDict[wire.Request, _Made] = OrderedDict()
        # Configurations made before workers were forked, and kept: they share the ticket keys.
        self._prepared: dict[wire.Request, ServerConfig] = {}

    @classmethod
    def of_files(cls, files: Mapping[str, tuple[Path, Path]], **options: Any) -> Self:
        """Read key pairs from files, and again whenever these have changed.

        Args:
            files: certificate and key of each, by the name that requests give it.
            options: as above.

        Raises:
            ConfigError: one is unusable.
        """
        read = {name: _stamps(paths) for name, paths in files.items()}
        made = cls({name: KeyPair.load(*paths) for name, paths in files.items()}, **options)
        made._files, made._read = dict(files), read
        return made

    def reload(self) -> None:
        """Read all key pairs anew.

        Raises:
            ConfigError: one is unusable; that one stays as it was.
        """
        for name in self._files:
            with self._lock:
                self._replace(name, _stamps(self._files[name]))

    def prepare(self, policy: KtlsPolicy) -> None:
        """Make the configurations of usual server requests, before workers are forked.

        Raises:
            ConfigError: OpenSSL refuses a certificate or its key.
        """
        self._policy = policy
        for name in self._key_pairs:
            request = self._complete(wire.ServerRequest(key_pair=name))
            config = self._server(request)
            establish.prepare(config, policy)
            self._prepared[_essence(request)] = config

    def find(self, request: wire.Request) -> Config:
        """Return the configuration that a request asks for; its timeout is the request's affair.

        Raises:
            ConfigError: it names files or keys that do not exist, or contradicts itself.
        """
        if isinstance(request, wire.ServerRequest):
            request = self._complete(request)
            self._look_at(request.key_pair or "")
        wanted = _essence(request)
        if (prepared := self._prepared.get(wanted)) is not None:
            return prepared
        now = time.monotonic()
        stamps = tuple(_stamp(getattr(request, name, None)) for name in _PATHS)
        with self._lock:
            found = self._made.get(wanted)
            if found is not None and found.until > now and found.stamps == stamps:
                self._made.move_to_end(wanted)
                return found.config
        if isinstance(request, wire.ServerRequest):
            made = _Made(self._server(request), now + _FRESH, stamps)
        elif isinstance(request, wire.ClientRequest):
            made = _Made(_client(request), now + _FRESH, stamps)
        else:
            raise ConfigError("this request has no role", hint="ask to connect, or to accept")
        with self._lock:
            self._made[wanted] = made
            self._made.move_to_end(wanted)
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return made.config

    def _complete(self, request: wire.ServerRequest) -> wire.ServerRequest:
        """Fill in the agent's defaults, so that equal wishes are equal requests."""
        if not self._key_pairs:
            raise ConfigError(
                "this agent has no key for servers", hint="start it with --cert FILE --key FILE"
            )
        name = next(iter(self._key_pairs)) if request.key_pair is None else request.key_pair
        if name not in self._key_pairs:
            raise ConfigError(
                f"this agent has no key pair {name}", hint=f"it has {', '.join(self._key_pairs)}"
            )
        return request.but(
            key_pair=name,
            alpn=request.alpn or self._alpn,
            versions=tuple(sorted(set(request.versions or ProtocolVersion))),
            aeads=request.aeads or tuple(aead.value for aead in DEFAULT_AEADS),
        )

    def _look_at(self, name: str) -> None:
        """Read a key pair again if its files have changed; keep the current one if that fails."""
        paths = self._files.get(name)
        if paths is None:
            return
        found = _stamps(paths)
        if found == self._read[name] and name not in self._refused:
            return
        with self._lock:
            if found == self._read[name]:  # refused a moment ago, or another thread has read it
                self._warn_if_it_stays(name)
                return
            self._refused.pop(name, None)
            try:
                self._replace(name, found)
            except ConfigError as exc:
                self._refused[name] = exc, time.monotonic() + _SETTLE
            except ResourceError as exc:
                _warn(name, exc)

    def _warn_if_it_stays(self, name: str) -> None:
        refused = self._refused.get(name)
        if refused is not None and refused[1] <= time.monotonic():
            del self._refused[name]
            _warn(name, refused[0])

    def _replace(self, name: str, found: tuple[object, ...]) -> None:
        """Read a key pair, and use it from now on; earlier tickets stay valid where possible.

        Raises:
            ConfigError: it is unusable; nothing has changed.
            ResourceError: it cannot be read now; likewise.
        """
        before, read_before = self._key_pairs[name], self._read[name]
        self._read[name] = found  # also if it is unusable: only a further change is worth a try
        made: dict[wire.Request, ServerConfig] = {}
        try:
            self._key_pairs[name] = KeyPair.load(*self._files[name])
            for request, previous in self._prepared.items():
                if isinstance(request, wire.ServerRequest) and request.key_pair == name:
                    config = made[request] = self._server(request)
                    establish.prepare(config, self._policy, previous)
        except TlsifyError as exc:
            self._key_pairs[name] = before
            if isinstance(exc, ResourceError):  # the files may be good: the next request tries
                self._read[name] = read_before
            raise
        self._prepared.update(made)
        for request in [it for it in self._made if getattr(it, "key_pair", None) == name]:
            del self._made[request]

    def _server(self, request: wire.ServerRequest) -> ServerConfig:
        return ServerConfig(
            key_pair=self._key_pairs[request.key_pair or ""],
            resumption=self._resumption,
            client_trust=None if request.client_trust is None else _trust(request.client_trust),
            client_required=request.client_required,
            client_identities=_identities(request.client_identities),
            **_common(request),
        )


def _warn(name: str, why: TlsifyError) -> None:
    _log.warning("reload failed, keeping the current key pair %s: %s", name, why)


# -- requests, field by field


def policy(request: wire.Request) -> KtlsPolicy:
    """Return the offload policy of a request.

    Raises:
        ConfigError: it does not say so.
    """
    try:
        mode = KtlsMode(request.ktls)
    except ValueError as exc:
        raise ConfigError(str(exc), hint="there are auto, require and off") from exc
    return KtlsPolicy(mode, request.rekey_required, request.any_kernel)


def _client(request: wire.ClientRequest) -> ClientConfig:
    key_pair = None
    if request.certificate is not None and request.key is not None:
        key_pair = KeyPair.load(_path(request.certificate), _path(request.key))
    return ClientConfig(
        server_name=request.server_name,
        identities=_identities(request.identities),
        verify=request.verify,
        trust=TrustAnchors() if request.trust is None else _trust(request.trust),
        key_pair=key_pair,
        session_store=None if request.session_store is None else _path(request.session_store),
        pins=request.pins,
        **_common(request),
    )


def _common(request: wire.Request) -> dict[str, Any]:
    """Return the settings common to client and server; absent ones have their defaults."""
    values: dict[str, Any] = {
        "alpn": request.alpn,
        "groups": request.groups,
        "crl_check_all": request.crl_check_all,
    }
    try:
        if request.versions:
            values["versions"] = frozenset(map(ProtocolVersion, request.versions))
        if request.aeads:
            values["aeads"] = tuple(map(Aead, request.aeads))
    except ValueError as exc:
        raise ConfigError(
            str(exc), hint='"tlsify help docs/agent.md" lists the valid values'
        ) from exc
    if request.crls is not None:
        values["crls"] = crls.load(_path(request.crls))
    if request.key_log is not None:
        values["key_log"] = _path(request.key_log)
    return values


def _identities(spelled: tuple[str, ...]) -> tuple[ReferenceIdentifier, ...]:
    return tuple(map(ReferenceIdentifier.parse, spelled))


def _trust(named: str) -> TrustAnchors:
    return store.load(_path(named))


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ConfigError(
            f"{path} is no absolute path", hint="the agent's current folder is not the requester's"
        )
    with contextlib.suppress(OSError):  # what is missing is the reader's to report
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ConfigError(f"{path} is no file", hint="the agent waits for no writer of a pipe")
    return path


@lru_cache(_KEPT)
def _essence(request: wire.Request) -> wire.Request:
    """Leave out what does not go into a configuration."""
    return request.but(timeout=0.0, ktls="auto", rekey_required=False, any_kernel=False)


def _stamps(paths: Iterable[Path]) -> tuple[object, ...]:
    return tuple(_stamp(str(path)) for path in paths)


def _stamp(path: str | None) -> tuple[int, ...] | None:
    """Return a stamp of a file that changes with it."""
    if path is None:
        return None
    try:
        state = os.stat(path)
    except OSError:
        return ()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
