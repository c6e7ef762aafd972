"""Child processes that cannot outlive this one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Make the kernel kill this process when the one that started it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def started(  # noqa: PLR0913 - each is one property of a process
    words: list[str],
    *,
    output: int,
    errors: int = subprocess.STDOUT,
    inherited: tuple[int, ...] = (),
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] = die_with_parent,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside this one; kill it at the end, whatever the end is."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        pass_fds=inherited,
        env=environment,
        preexec_fn=prepare,  # noqa: PLW1509 - no other thread holds a lock meanwhile
        # Ctrl-C is for this process, which then ends the other.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # User-mode Linux has children of its own, one for each address space of its guest.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
