"""Tell by a thread's stack whether it is in the midst of a call on a connection.

What is noted when a call begins stays noted if a signal handler raises before the call is able to
undo it. A stack is always right, and takes a while to look at: ask it if a note looks wrong.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_OURS = __name__.rpartition(".")[0] + "."


def is_in_call(thread: int) -> bool:
    """Return whether a thread is in a call; of this thread, whether in one that was interrupted.

    Args:
        thread: its `threading.get_ident`.
    """
    frame = sys._current_frames().get(thread)
    if thread == threading.get_ident():
        while frame is not None and _is_ours(frame):  # the call that asks
            frame = frame.f_back
    while frame is not None and not _is_ours(frame):
        frame = frame.f_back
    return frame is not None


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(_OURS)
