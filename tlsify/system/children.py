"""Forked children: each ends with its work, and logs why that failed."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NoReturn

from tlsify.errors import TlsifyError, errno_name

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("tlsify")


def be_child(work: Callable[[], object], name: str) -> NoReturn:
    """Run a forked child's work, and end the process: it never returns into its parent's code.

    Args:
        work: the process ends with status 0 once it has returned, and with 1 if it raises.
        name: of the process, in the log, where it raises.
    """
    status = 1
    try:
        work()
        status = 0
    except TlsifyError as exc:
        _log.error("%s failed: %s", name, exc, extra={"hint": exc.hint})
    except OSError as exc:
        _log.error("%s failed: %s: %s", name, errno_name(exc.errno or 0), exc.strerror)
    except Exception:  # noqa: BLE001 - a bug must not unwind the parent's frames either
        _log.exception("%s failed", name)
    finally:
        os._exit(status)
