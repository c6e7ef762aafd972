"""Tests of the ASGI worker's context; the server is in test_asynchronous."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from gunicorn.config import Config

from tests.integrations.harness import arrange
from tlsify.integrations.gunicorn_asgi import ssl_context

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


@pytest.mark.parametrize(
    ("protocols", "offered"), [("h1", (b"http/1.1",)), ("h2,h1", (b"h2", b"http/1.1"))]
)
def test_protocols(
    tmp_path: Path, authority: trustme.CA, protocols: str, offered: tuple[bytes, ...]
) -> None:
    """What gunicorn is to speak is offered, in its order."""
    task = arrange(tmp_path, authority, "off")
    settings: Any = Config()
    for name, value in (
        ("certfile", task.cert),
        ("keyfile", task.key),
        ("http_protocols", protocols),
    ):
        settings.set(name, value)
    context = ssl_context(settings, lambda: None)
    assert context.server_config().alpn == offered
