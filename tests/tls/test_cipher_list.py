"""Tests of cipher lists."""

from __future__ import annotations

import pytest

from tlsify.tls.cipher_list import allowed


def test_list() -> None:
    """TLS 1.2's suites are in its order, and TLS 1.3's are there in any case."""
    found = allowed("ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256")
    assert [name for name in found if name.startswith("ECDHE")] == [
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ]
    assert "TLS_AES_128_GCM_SHA256" in found


@pytest.mark.parametrize("text", ["nonsense", "", "ECDHE\u20ac"])
def test_no_list(text: str) -> None:
    """It is an error, not the default."""
    with pytest.raises(ValueError, match="no cipher list"):
        allowed(text)
