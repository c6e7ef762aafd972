"""Tests of wsgiref: its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integrations.trials import PATHS, Server, endure, show
from tests.interop.programs import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

WSGIREF = Server("wsgiref", "wsgiref_server", keeps_alive=False, sendfile=True)
each = pytest.mark.parametrize("server", [WSGIREF], ids=lambda server: server.name)
paths = pytest.mark.parametrize("ktls", PATHS)


@each
@paths
def test_what_it_shows(tmp_path: Path, authority: trustme.CA, server: Server, ktls: str) -> None:
    """It does its best on either path."""
    show(server, tmp_path, authority, ktls)


@each
@paths
def test_what_it_endures(tmp_path: Path, authority: trustme.CA, server: Server, ktls: str) -> None:
    """It goes on."""
    endure(server, tmp_path, authority, ktls)
