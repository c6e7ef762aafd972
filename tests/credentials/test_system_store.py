"""Tests of system_store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tlsify.credentials.system_store import state_of, state_of_default

if TYPE_CHECKING:
    from collections.abc import Callable

NOWHERE = "/nonexistent/file", "/nonexistent/folder"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A file, and beside it a folder with a link to another file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/01234567.0").symlink_to(tmp_path / "target")
    for name in ("target", "bundle"):
        (tmp_path / name).write_bytes(b"certificate")
    return tmp_path / "bundle"


def _replace(path: Path) -> None:
    (path.parent / "new").write_bytes(path.read_bytes())
    (path.parent / "new").rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "bundle written over": lambda it: it.write_bytes(b"another one"),
    "bundle replaced": _replace,
    "bundle gone": Path.unlink,
    "link gone": lambda it: (it.parent / "folder/01234567.0").unlink(),
    "link leads nowhere": lambda it: (it.parent / "target").unlink(),
    "target written over": lambda it: (it.parent / "target").write_bytes(b"certificate!"),
    "one more": lambda it: (it.parent / "folder/01234567.1").write_bytes(b"certificate"),
    "a list": lambda it: (it.parent / "folder/01234567.r0").write_bytes(b"list"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes(bundle: Path, change: str) -> None:
    """Each of them changes the state, which is otherwise the same."""
    places = [bundle], [bundle.with_name("folder"), bundle.with_name("nowhere")]
    before = state_of(*places)
    bundle.with_name("folder").joinpath("README").touch()
    assert state_of(*places) == before
    CHANGES[change](bundle)
    assert state_of(*places) != before


def test_default_of_openssl(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's places count, and those that OpenSSL was built with."""
    monkeypatch.setenv("SSL_CERT_DIR", f"/nonexistent:{bundle.with_name('folder')}")
    states = [state_of_default(*NOWHERE), state_of_default(str(bundle), NOWHERE[1])]
    bundle.with_name("target").unlink()
    states.append(state_of_default(*NOWHERE))
    monkeypatch.delenv("SSL_CERT_DIR")
    states += [state_of_default(*NOWHERE), state_of_default(*NOWHERE)]
    assert len(set(states)) == 4


def test_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    """Its state is like no other, since OpenSSL may find certificates there all the same."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert state_of((), [loop]) != state_of((), [loop])
