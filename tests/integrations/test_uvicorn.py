"""Tests of uvicorn's context; the server is in test_asynchronous."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from tests.integrations.harness import arrange
from tlsify.errors import ConfigError
from tlsify.integrations.uvicorn import ssl_context_factory
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


def config(**settings: Any) -> uvicorn.Config:
    """Make uvicorn's configuration, loaded, with tlsify's context."""
    made = uvicorn.Config("no:application", ssl_context_factory=ssl_context_factory, **settings)
    made.ssl = ssl_context_factory(made, lambda: None)
    return made


def test_settings(tmp_path: Path, authority: trustme.CA) -> None:
    """Uvicorn's own settings are all that is needed."""
    task = arrange(tmp_path, authority, "off")
    made = config(
        ssl_certfile=task.cert,
        ssl_keyfile=task.key,
        ssl_ca_certs=task.ca,
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        ssl_ciphers="ECDHE+AESGCM",
    )
    assert made.is_ssl
    said = made.ssl
    assert isinstance(said, SSLContext)
    assert said.server_config().client_required
    assert said.server_config().alpn == (b"http/1.1",)
    plain = config(ssl_certfile=task.cert, ssl_keyfile=task.key, ssl_ciphers="").ssl
    assert isinstance(plain, SSLContext)
    assert plain.server_config().client_trust is None


def test_bad_settings(tmp_path: Path, authority: trustme.CA) -> None:
    """A file that is none shows at once."""
    task = arrange(tmp_path, authority, "off")
    with pytest.raises(ConfigError):
        config(ssl_certfile=task.cert, ssl_keyfile=task.ca)
