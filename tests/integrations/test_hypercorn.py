"""Tests of hypercorn's configuration; the server is in test_asynchronous."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.doubles import RELAY
from tests.integrations.harness import arrange
from tlsify.errors import ConfigError
from tlsify.integrations.hypercorn import Config
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


def test_settings(tmp_path: Path, authority: trustme.CA) -> None:
    """Hypercorn's own settings, and the policy, are in the context."""
    task = arrange(tmp_path, authority, "off")
    config = Config()
    config.certfile, config.keyfile, config.ca_certs = task.cert, task.key, task.ca
    config.verify_mode = ssl.CERT_REQUIRED
    config.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
    config.policy = RELAY
    context = config.create_ssl_context()
    assert isinstance(context, SSLContext)
    assert context.policy is RELAY
    assert context.server_config().alpn == (b"h2", b"http/1.1")
    assert context.server_config().client_required


def test_without_a_certificate() -> None:
    """There is no TLS then, as with hypercorn's own."""
    assert Config().create_ssl_context() is None


def test_bad_settings(tmp_path: Path, authority: trustme.CA) -> None:
    """A file that is none shows at once."""
    task = arrange(tmp_path, authority, "off")
    with pytest.raises(ConfigError):
        Config.from_mapping(certfile=task.cert, keyfile=task.ca).create_ssl_context()
