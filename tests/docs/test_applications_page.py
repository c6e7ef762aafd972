"""The page about web applications: its wrappers do what they say."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.docs.examples import PROJECT

_TEXT = (PROJECT / "docs/applications.md").read_text()


def _wrapper(kind: str) -> Any:
    block = re.search(rf"^```python {kind}\n(.*?)^```$", _TEXT, re.DOTALL | re.MULTILINE)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block[1], names)
    return names["behind_tls"]


def test_wsgi() -> None:
    """The application sees https."""
    seen: dict[str, str] = {}
    application = _wrapper("wsgi")(lambda environ, start: seen.update(environ) or start("200 OK"))
    assert application({"wsgi.url_scheme": "http", "PATH_INFO": "/"}, len) == len("200 OK")
    assert seen == {"wsgi.url_scheme": "https", "PATH_INFO": "/"}


@pytest.mark.parametrize(
    ("scope", "seen"),
    [
        ({"type": "http", "scheme": "http"}, "https"),
        ({"type": "websocket", "scheme": "ws"}, "wss"),
        ({"type": "lifespan"}, None),
    ],
    ids=["http", "websocket", "lifespan"],
)
def test_asgi(scope: dict[str, str], seen: str | None) -> None:
    """The application sees https or wss; the server's own scope stays as it was."""
    schemes = []

    async def application(scope: dict[str, str], *_: object) -> None:
        schemes.append(scope.get("scheme"))

    before = dict(scope)
    asyncio.run(_wrapper("asgi")(application)(scope, None, None))
    assert schemes == [seen]
    assert scope == before
