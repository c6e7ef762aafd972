"""Modules that others import and a client hardly uses: loaded when something of them is used."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

# Those that are on a client's way to its ClientHello, and what asks for them there.
MODULES = (
    "inspect",  # dataclasses; pyOpenSSL uses it, and who asks an agent is spared it
    "tokenize",  # inspect, and linecache
    "traceback",  # logging
    "datetime",  # pyOpenSSL, and calendar
    "calendar",  # pyOpenSSL, for the time of a verification
    "ipaddress",  # names that may be addresses
    "random",  # cryptography, for RSA keys of others' making
    "cryptography.x509",  # pyOpenSSL; a client needs it when it sees the server's certificate
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


def load_late(name: str) -> None:
    """Defer the loading of a module from its import to its first use."""
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    module.__dict__["_wanted"] = spec
    module.__class__ = _Late
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def load_now() -> None:
    """Load all that was put off, for who gives up rights and may not be able to read it later."""
    for name in MODULES:
        if name in sys.modules:
            _load(sys.modules[name])
