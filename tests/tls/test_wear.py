"""Tests of wear; those of the tunnels have its effects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.doubles import EnginePair
from tests.tls.test_tunnel import CLIENT, SERVER
from tlsify.codepoints import Aead
from tlsify.tls.wear import _SPARE, Wear


@pytest.mark.parametrize(
    ("aead", "limit"),
    [(Aead.AES_GCM_256, 2**24), (Aead.AES_CCM_128, 2**23), (Aead.CHACHA20_POLY1305, None)],
)
@pytest.mark.parametrize("longest", [None, 512])
def test_limit(aead: Aead, limit: int | None, longest: int | None) -> None:
    """It is the cipher's, in records of the length that the peer takes."""
    found, _ = EnginePair(CLIENT, SERVER, (aead,)).run()
    worn = Wear(replace(found, max_fragment_length=longest))
    size = (longest or 2**14) * ((limit or 2**40) - _SPARE)
    worn.add(size - 1)
    assert worn.refusal(0) is None
    error = worn.refusal(1)
    assert (error is None) == (limit is None)
    worn.renew()
    assert worn.refusal(size) is None
