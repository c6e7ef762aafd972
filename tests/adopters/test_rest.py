"""A REST call in shell: HTTP/1.1 by hand, on the descriptors that a program is given."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import recipe
from tests.interop.programs import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adopters.recipes import Place

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_ITEM = {"id": 1, "name": "Käse", "tags": ["a"] * 10_000}


@contextmanager
def _serving(place: Place) -> Iterator[int]:
    (place.folder / "site/items").mkdir(parents=True)
    (place.folder / "site/items/1").write_text(json.dumps(_ITEM))
    place.write_script("rest")
    words = "exec tlsify --log-level=warning serve --listen 127.0.0.1:0 "
    words += "--cert cert.pem --key key.pem site"
    with place.start(words) as server:
        yield int(server.wait_for(rb"on https://127\.0\.0\.1:(\d+)/ ")[1])
        server.terminate()
        assert server.status() == 0, server.errors()
        assert server.errors() == ""


def test_item_that_is_there(place: Place) -> None:
    """Its JSON is printed, nothing else, and the script succeeds."""
    with _serving(place) as port, place.carried(connections=1):
        said = place.succeed(recipe("rest-get", {"api.example.org:443": f"localhost:{port}"}))
    assert json.loads(said) == _ITEM


@pytest.mark.full_run
def test_item_that_is_not_there(place: Place) -> None:
    """The script fails with the status, which is the command's."""
    with _serving(place) as port, place.carried(connections=1):
        own = {"api.example.org:443": f"localhost:{port}", "items/1": "items/2"}
        done = place.run(recipe("rest-get", own))
    assert done.returncode == 1
    assert "404" in done.stdout


@pytest.mark.full_run
def test_server_that_is_somebody_else(place: Place) -> None:
    """The script is not started."""
    with _serving(place) as port:
        done = place.run(recipe("rest-get", {"api.example.org:443": f"127.0.0.1:{port}"}))
    assert done.returncode == 98
    assert done.stdout.startswith("tlsify: error: ")
    assert len(done.stdout.splitlines()) == 2
