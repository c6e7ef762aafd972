"""Where the programs of peers come from: a guest's root image, or the lane's trees on the host."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vm"))

from lane import peers
from lane.cache import LaneError

GUEST = os.environ.get("TLSIFY_GUEST", "")
# Folders with servers to be wrapped; empty where they are not asked for.
SERVERS_AT = os.environ.get("TLSIFY_SERVERS", "")
WITH_BROWSER = os.environ.get("TLSIFY_BROWSER") == "1"


@functools.cache
def refusal() -> str | None:
    """Return why there are no peers here; None if there are."""
    if not GUEST:
        try:
            peers.PEERS.environment()
            if WITH_BROWSER:
                peers.BROWSER.environment()
        except LaneError as error:
            return f"no peers' programs: {error}; {error.hint}"
    return None


def prepare() -> None:
    """Put the peers' programs before the host's in PATH."""
    if not GUEST and refusal() is None:
        os.environ.update(peers.PEERS.environment())


def tree() -> Path:
    """Return the root of the peers' tree; where there is none, as in guests, there is no test."""
    if (reason := "guests have no tree" if GUEST else refusal()) is not None:
        pytest.skip(reason)
    return peers.PEERS.tree


def find(program: str) -> str:
    """Return a peer's path.

    It is never one that the host happens to have: on the host it is in the lane's tree, and
    without a tree there is no test. Guests have a part of the same release.
    """
    if program in peers.AUTHORITY.programs and not GUEST:
        return _of_authority(program)
    known = {**peers.PEERS.programs, **peers.AUTHORITY.programs}
    assert program in known, f"vm/lane/peers.py does not name {program}"
    if not GUEST:
        return str(tree() / "programs" / program)
    if program not in peers.IN_GUESTS:
        pytest.skip(f"guests have no {program}")
    found = shutil.which(program)
    assert found is not None, f"{program} is missing in the guest"
    return found


def _of_authority(program: str) -> str:
    """Return the path of a program that few tests need, fetched by the first of them."""
    tree()
    try:
        return str(peers.AUTHORITY.program(program))
    except LaneError as error:
        pytest.skip(f"no {program}: {error}; {error.hint}")


def find_server(program: str) -> str:
    """Return the path of a server to be wrapped, which guests have, or only the full run brings."""
    if program in peers.IN_GUESTS:
        return find(program)
    if not SERVERS_AT:
        pytest.skip("of the full run")
    path = os.pathsep.join(f"{folder}/programs" for folder in SERVERS_AT.split(os.pathsep))
    found = shutil.which(program, path=path)
    assert found is not None, f"{program} is missing in {SERVERS_AT}"
    return found
