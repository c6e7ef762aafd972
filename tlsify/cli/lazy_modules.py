"""Modules that a single connection hardly uses: loaded at their first use."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Those of others that are on a client's way to its end, and what asks for them there.
_FOREIGN = (
    "hashlib",  # what is said of the peer's certificate; it loads the system's OpenSSL
    "inspect",  # dataclasses
    "tokenize",  # inspect, and linecache
    "traceback",  # logging
    "datetime",  # pyOpenSSL, and calendar
    "calendar",  # pyOpenSSL, for the time of a verification
    "ipaddress",  # names that may be addresses
    "random",  # cryptography, for RSA keys of others' making
    "secrets",  # names of sessions
    "cryptography.x509",  # pyOpenSSL, and a server's certificate
)
# Our own that not every connection needs, or only behind its hello: importers name the module, and
# nothing of it. A process for many connections loads them with the rest, before it forks.
_OWN = (
    "tlsify.connection.commit",
    "tlsify.connection.control",
    "tlsify.connection.setup.session_store",
    "tlsify.isolation.remote_engine",
    "tlsify.ktls.probe",
    "tlsify.ktls.ulp",
    "tlsify.tls.conclusion",
    "tlsify.tls.handshake_keys",
    "tlsify.tls.keyed_tunnel",
    "tlsify.tls.messages",
    "tlsify.tls.serialize",
    "tlsify.tls.session",
    "tlsify.tls.ticket_reader",
)
# One thread loads, and others wait for all of it.
_loading = threading.RLock()


class _Late(ModuleType):
    """A module that was found, and not loaded.

    importlib's LazyLoader does not do for what others import by its own name: each ``import`` looks
    at ``__spec__``, which is there before, and LazyLoader takes that for use.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _load(self)
        return object.__getattribute__(self, name)


def _load(module: ModuleType) -> None:
    with _loading:
        spec = module.__dict__.pop("_wanted", None)  # none if it is its own code that asks
        if spec is not None:
            spec.loader.exec_module(module)
            module.__class__ = ModuleType


def prepare(*, is_single: bool) -> None:
    """Defer the loading of all that is not needed from the start.

    Args:
        is_single: whether this process serves one connection, and not many.
    """
    for name in (*_FOREIGN, *_OWN) if is_single else _FOREIGN:
        load_late(name)
    # For a decorator with which pyOpenSSL marks what we do not call, and which Python has from 3.13
    # on: more of it is loaded if more of it is used.
    load_late("typing_extensions", deprecated=_undecorated)


def _undecorated(_: str) -> Callable[[Any], Any]:
    return lambda decorated: decorated


def load_late(name: str, **known: object) -> None:
    """Defer the loading of a module from its import to its first use.

    Args:
        name: of the module; nothing happens if there is none, or if it is loaded.
        known: what stands in for parts of it until then.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    module.__dict__.update(known, _wanted=spec)
    module.__class__ = _Late
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def load_now() -> None:
    """Load all that was put off, for who gives up rights and may not be able to read it later."""
    for module in list(sys.modules.values()):
        if isinstance(module, _Late):
            _load(module)
