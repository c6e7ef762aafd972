"""The kept corpus: for each target a file whose lines are inputs, in hexadecimal digits."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.targets import TARGETS

_FOLDER = Path(__file__).parent / "corpus"
# Bytes of an input that is kept: long ones reach no code that short ones do not.
_LONGEST = 600
_MOST = 150  # of a target


def inputs(name: str) -> list[bytes]:
    """Return a target's corpus, and what a friendly peer would send."""
    path = _FOLDER / name
    kept = path.read_text().splitlines() if path.exists() else []
    return [*map(bytes.fromhex, kept), *TARGETS[name].seeds()]


def unpack(name: str, folder: Path) -> None:
    """Make a folder of files of them."""
    folder.mkdir()
    for number, data in enumerate(inputs(name)):
        (folder / str(number)).write_bytes(data)


def pack(name: str, *folders: Path) -> None:
    """Keep what folders of files hold: the shortest, each of which has reached something new."""
    found = {path.read_bytes() for folder in folders for path in folder.iterdir()}
    short = (data for data in found - set(TARGETS[name].seeds()) if len(data) <= _LONGEST)
    kept = sorted(short, key=lambda it: (len(it), it))[:_MOST]
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / name).write_text("".join(f"{data.hex()}\n" for data in kept))
