"""Limit of descriptors of `listen`: enough for its places, and for newcomers without one."""

from __future__ import annotations

import contextlib
import logging
import resource

_log = logging.getLogger("tlsify")

# Descriptors that are needed besides those of places: one for each.
_OWN_DESCRIPTORS = 64
# How many newcomers may be waited for, if there are descriptors for so many; some at least.
_SILENT, _LEAST_SILENT = 4096, 16


class DescriptorLimit:
    """The limit of descriptors: raised for the door where places need it, and not for programs."""

    def __init__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._is_raised = False

    def suffice_for(self, limit: int) -> tuple[int, int]:
        """Raise it as far as places need it; return how many there can be, and silent newcomers."""
        soft, hard = self._before
        needed = limit + _OWN_DESCRIPTORS + _SILENT
        if soft != resource.RLIM_INFINITY and needed > soft:
            soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self._is_raised = True
        left = needed if soft == resource.RLIM_INFINITY else soft - _OWN_DESCRIPTORS
        found = min(limit, max(left, 1))
        if found < limit:
            _log.warning(
                "%d connections at once, and not %d: no more descriptors (ulimit -n)", found, limit
            )
        return found, max(min(left - found, _SILENT), _LEAST_SILENT)

    def restore(self) -> None:
        """Set it back: programs that call select(2) can do with 1024 descriptors only."""
        if self._is_raised:
            with contextlib.suppress(ValueError, OSError):  # the limit was lowered meanwhile
                resource.setrlimit(resource.RLIMIT_NOFILE, self._before)
