"""The page about certificates: every example on it works."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import Place
from tests.docs.examples import PROJECT, Reader, examples
from tests.interop.programs import TIMEOUT
from tlsify.codepoints import NamedGroup

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

PAGE = PROJECT / "docs/certificates.md"


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
def test_examples_work(authority: trustme.CA, tmp_path: Path) -> None:
    """Who follows the page sees what it says."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    place = Place(tmp_path, "", tmp_path / "ca.pem")
    place.certify(authority.issue_cert("localhost"))
    assert examples(PAGE)
    Reader(place, {}).follow(PAGE)


def test_groups_are_listed() -> None:
    """All that there are, by their names."""
    named = set(re.findall(r"`([A-Za-z0-9]+)`", PAGE.read_text()))
    assert {group.name for group in NamedGroup} <= named
