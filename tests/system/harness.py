"""A child that tries what its sandbox may not let it do."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def tried(confine: Callable[[], object], *attempts: Callable[[], object]) -> list[int | None]:
    """Make a confined child try things; return the errno of each, None where it went well."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            confine()
            os.write(writer, json.dumps([_errno(attempt) for attempt in attempts]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    found: list[int | None] = json.loads(said)
    return found


def _errno(attempt: Callable[[], object]) -> int | None:
    try:
        attempt()
    except OSError as exc:
        return exc.errno
    return None
