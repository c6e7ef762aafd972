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
@pytest.mark.parametrize(("size", "worth"), [(2**14, 1), (2**16, 4), (100, 10 / 1028)])
def test_limit(aead: Aead, limit: int | None, size: int, worth: float) -> None:
    """It is that of the cipher, in full records; short ones count for what they are."""
    found, _ = EnginePair(CLIENT, SERVER, (aead,)).run()
    worn = Wear(found)
    left = int(((limit or 2**40) - _SPARE) / worth)
    worn._blocks = (left - 1) * worn._blocks_of(size)
    assert worn.refusal(size) is None
    worn.add(size)
    assert (worn.refusal(size) is None) == (limit is None)
    worn.renew()
    assert worn.refusal(size) is None


def test_short_records() -> None:
    """Those for a peer that wants them wear a key out sooner."""
    found, _ = EnginePair(CLIENT, SERVER).run()
    worn, sooner = Wear(found), Wear(replace(found, max_fragment_length=512))
    assert worn._blocks_of(2**14) == 1028
    assert sooner._blocks_of(2**14) == 1024 + 32 * 4
