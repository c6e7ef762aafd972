"""Error messages of the command, in two lines, and the exit status of each."""

from __future__ import annotations

import errno
import signal
import sys
from typing import TYPE_CHECKING

from tlsify.errors import SHORTAGES, ExitCode, TlsifyError, errno_name

if TYPE_CHECKING:
    from collections.abc import Callable


PROGRAM = "tlsify"
_REINSTALL = "the installation lacks a part: pip install --force-reinstall tlsify"
_GENERAL_HINT = "errno(3) explains the name"
_HINTS = {
    errno.EBADF: "leave stdin, stdout and stderr open",
    errno.EIO: "see whether the terminal or the disk behind it is still there",
    errno.EISDIR: "name a file, a pipe or a terminal",
    **SHORTAGES,
}


class Ended(BaseException):
    """The process was ended by a signal that leaves time for a clean end of the connection."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def fail(message: str, hint: str) -> None:
    """Print the error line and the hint line; what a peer put into them stays one line of text."""
    from tlsify.logs.messages import report  # logging, which a client does without

    report(message, hint)


def guarded(work: Callable[[], int], prefix: str = "") -> int:
    """Do something, and report what goes wrong with it as the command does.

    Args:
        work: gives an exit status.
        prefix: of the error line, where there are several it could be about.
    """
    try:
        return work()
    except TlsifyError as exc:
        if exc.exit_code is ExitCode.BUG:
            _print_traceback(exc)
        fail(f"{prefix}{exc}", exc.hint)
        return exc.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Ended as exc:
        return 128 + exc.number
    except OSError as exc:
        return _report_os_error(exc, prefix)
    except Exception as exc:  # noqa: BLE001 - the one place where a bug ends
        return _report_bug(exc, prefix)


def _report_bug(exc: Exception, prefix: str) -> int:
    if isinstance(exc, ModuleNotFoundError) and not f"{exc.name}".startswith(PROGRAM):
        fail(f"{prefix}the package {exc.name} is not installed", _REINSTALL)
        return ExitCode.CONFIG
    _print_traceback(exc)
    fail(f"{prefix}unexpected exception", TlsifyError.general_hint)
    return ExitCode.BUG


def _report_os_error(exc: OSError, prefix: str) -> int:
    number = exc.errno or 0
    if number == errno.EPIPE and exc.filename == "stdout":
        # Whoever read it has enough, as head(1) has: SIGPIPE would have ended us.
        return 128 + signal.SIGPIPE
    where = f"{exc.filename}: " if exc.filename else ""
    fail(
        f"{prefix}{where}{errno_name(number)}: {exc.strerror or exc}",
        _HINTS.get(number, _GENERAL_HINT),
    )
    return ExitCode.SYSTEM


def _print_traceback(exc: Exception) -> None:
    # As the interpreter does it, which needs no module for it.
    sys.__excepthook__(type(exc), exc, exc.__traceback__)


def flush_stdout() -> None:
    """Print what is still buffered, while a failure can still be reported.

    Raises:
        OSError: it cannot be printed; its ``filename`` is "stdout".
    """
    if sys.stdout:
        sys.stdout.flush()
