"""The tutorial: who follows it sees what it says, on either carrier."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import Place
from tests.docs.examples import PROJECT, Reader, examples
from tests.interop.programs import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

PAGE = PROJECT / "docs/tutorial.md"


@pytest.fixture(autouse=True)
def roster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place where the page's server is asked for its connections."""
    monkeypatch.setenv("TLSIFY_ROSTER", str(tmp_path / "roster"))


def _proof(authority: trustme.CA, folder: Path, option: str = "") -> tuple[str, str]:
    """Follow the page to its end, with an option for each command; return what the proofs print."""
    authority.cert_pem.write_to_path(folder / "unused.pem")
    assert examples(PAGE)
    *_, listed, counted = Reader(Place(folder, option, folder / "unused.pem"), {}).follow(PAGE)
    assert listed.startswith("HTTP/1.1 200 OK\n"), listed
    return listed, counted


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
def test_steps_work(authority: trustme.CA, tmp_path: Path) -> None:
    """From the first to the last, in one folder; the connection is listed."""
    listed, counted = _proof(authority, tmp_path, "--ktls=off")
    assert len(re.findall(r" relay +relay .* policy-off$", listed, re.MULTILINE)) == 1, listed
    assert "hello over TLS" in counted


@pytest.mark.ktls
@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
def test_proof(authority: trustme.CA, tmp_path: Path) -> None:
    """Where the kernel can, it has both ends of the one connection, and the server's of curl's."""
    listed, counted = _proof(authority, tmp_path)
    assert len(re.findall(r" kernel +kernel ", listed)) == 2, listed
    before, after = map(int, re.findall(r"^TlsTxSw\s+(\d+)$", counted, re.MULTILINE))
    assert after == before + 1, counted
