"""The tutorial: who follows it sees what it says, on either carrier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import Place
from tests.docs.examples import PROJECT, Reader, examples
from tests.interop.programs import TIMEOUT
from tlsify.ktls.diag import tls_stat

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

PAGE = PROJECT / "docs/tutorial.md"


def _follow(authority: trustme.CA, folder: Path) -> None:
    authority.cert_pem.write_to_path(folder / "unused.pem")
    assert examples(PAGE)
    Reader(Place(folder, "", folder / "unused.pem"), {}).follow(PAGE)


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
def test_steps_work(authority: trustme.CA, tmp_path: Path) -> None:
    """From the first to the last, in one folder."""
    _follow(authority, tmp_path)


@pytest.mark.ktls
@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
def test_proof(authority: trustme.CA, tmp_path: Path) -> None:
    """Where the kernel can, it has encrypted at five of six ends of the three connections."""
    before = tls_stat()
    _follow(authority, tmp_path)
    after = tls_stat()
    assert after["TlsTxSw"] >= before["TlsTxSw"] + 5, "curl's end alone is its own"
    assert after["TlsDecryptError"] == before["TlsDecryptError"]
