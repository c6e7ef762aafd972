"""A place for programs that have adopted tlsify, with a server's certificate in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import Place
from tests.cli.harness import CARRIERS

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


@pytest.fixture(params=CARRIERS)
def place(request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path) -> Place:
    """A folder with cert.pem and key.pem, for localhost; once for each carrier."""
    anchor = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(anchor)
    made = Place(tmp_path, request.param, anchor)
    made.certify(authority.issue_cert("localhost"))
    return made
