"""Tests of verification: which of stunnel's settings want it, and from whom."""

from __future__ import annotations

import pytest

from tests.cli.migration.test_stunnel import one
from tlsify.cli.migration.draft import Weight

_SERVER = "[s]\naccept = 443\nconnect = 80\n"


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("", None),
        ("verify = 0", None),
        ("verifyChain = no\nverifyPeer = no", None),
        ("verify = 1", "request"),
        ("verify = 2", "require"),
        ("verify = 3", "require"),
        ("verify = 4", "require"),
        ("verifyChain = yes", "require"),
        ("verifyPeer = yes", "require"),
    ],
)
def test_levels(lines: str, wanted: str | None) -> None:
    """Whatever wants a certificate gets one wanted; what needs more than authorities is named."""
    found, remarks = one(f"{_SERVER}CAfile = ca\n{lines}\n")
    assert found.get("client-cert") == wanted
    is_by_peer = "Peer = yes" in lines or lines[-1:] in {"3", "4"}
    assert (Weight.SECURITY in remarks.values()) is is_by_peer
