"""Tests of wsgiref: its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integrations.trials import PATHS, Server, break_off, trials
from tests.interop.programs import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

SERVER = Server("wsgiref", "wsgiref_server", keeps_alive=False, sendfile=True)
test_what_it_shows, test_what_it_endures = trials(SERVER)


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("ktls", PATHS)
def test_answer_that_breaks_off(tmp_path: Path, authority: trustme.CA, ktls: str) -> None:
    """Its server gives up silently; the client sees no clean end."""
    break_off(SERVER, tmp_path, authority, ktls)
