"""Tests of what the quick lane's kernel has to be able to do, besides TLS."""

from __future__ import annotations

import mmap

import pytest


@pytest.mark.ktls
def test_more_pages_than_its_host_maps() -> None:
    """A host maps 65530 areas of a process, and one page at a time of what lies scattered."""
    size = 280 << 20
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        # What was never written is one page of zeros, which cannot be mapped as one area.
        assert not any(memory[:: mmap.PAGESIZE])
