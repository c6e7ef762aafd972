"""Tests of account: its key in a folder, and what pebble knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from acme import client, messages

from tests.acme.pebble import Pebble
from tlsify.acme.account import account_key, file_name
from tlsify.acme.client import Client
from tlsify.acme.failures import AcmeError
from tlsify.acme.settings import Authority
from tlsify.credentials.anchors import TrustAnchors
from tlsify.renewal.folder import Folder
from tlsify.renewal.web import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme


@pytest.fixture(scope="module")
def pebble(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority that takes everyone."""
    with Pebble(tmp_path_factory.mktemp("pebble"), authority) as running:
        yield running


def test_key(tmp_path: Path) -> None:
    """It is kept for each authority; another thing in its place is not replaced."""
    folder = Folder(tmp_path, "the folder").check()
    key = account_key(folder, "https://a/directory")
    assert account_key(folder, "https://a/directory") == key
    path = tmp_path / file_name("https://a/directory")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"garbage")
    with pytest.raises(AcmeError, match=r"account-.* is no unencrypted key"):
        account_key(folder, "https://a/directory")
    assert path.read_bytes() == b"garbage"
    assert account_key(folder, "https://b/directory") != key


def test_address_that_changes(pebble: Pebble, tmp_path: Path) -> None:
    """The authority is told of a new one; one that is no longer named stays with the account."""
    folder = Folder(tmp_path, "the folder").check()

    def known(email: str | None) -> tuple[str, ...]:
        settings = Authority(pebble.directory, TrustAnchors.load(pebble.ca), email)
        ours = Client(settings, folder, Deadline(60))
        ours._register()
        acme: client.ClientV2 = ours._client
        account = acme.net.account
        assert account is not None
        again = messages.RegistrationResource(body=messages.Registration(), uri=account.uri)
        return tuple(acme.query_registration(again).body.emails)

    assert known("old@tlsify.example") == ("old@tlsify.example",)
    assert known("new@tlsify.example") == ("new@tlsify.example",)
    assert known(None) == ("new@tlsify.example",)
