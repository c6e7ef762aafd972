"""Tests of advisories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsify.ktls.advisories import ADVISORIES, Advisory, known_bad, true_version

DEBIAN = "#1 SMP PREEMPT_DYNAMIC Debian {}-1 (2026-01-10)"
UBUNTU = "#41-Ubuntu SMP PREEMPT_DYNAMIC Fri Aug  2 20:41:06 UTC 2024"
FIRST, SECOND = ADVISORIES


@pytest.mark.parametrize(
    ("release", "version", "expected"),
    [
        ("6.1.0-53-amd64", DEBIAN.format("6.1.153"), (6, 1, 153)),
        ("6.12.57+deb13-amd64", DEBIAN.format("6.12.57"), (6, 12, 57)),
        ("6.12.48", "#1 SMP Thu Jan 1 00:00:00 UTC 2026", (6, 12, 48)),
        ("6.8.0-45-generic", UBUNTU, None),
        ("7.3.0", "#1 SMP", None),
        ("6.14-rc3", "#1 SMP", None),
        ("", "", None),
        ("gVisor", "4.4.0", None),
    ],
)
def test_true_version(release: str, version: str, expected: tuple[int, int, int] | None) -> None:
    """The upstream version is found where it is told, and not guessed where it is hidden."""
    assert true_version(release, version) == expected


@pytest.mark.parametrize(
    ("number", "bugs"),
    [
        ("6.1.152", (FIRST, SECOND)),
        ("6.1.153", (SECOND,)),
        ("6.1.157", (SECOND,)),
        ("6.1.158", ()),
        ("6.12.47", (FIRST, SECOND)),
        ("6.12.48", (SECOND,)),
        ("6.12.56", (SECOND,)),
        ("6.12.57", ()),
        ("7.3.4", ()),
        ("6.13.1", ()),
    ],
)
def test_patch_level_beside_the_fix(number: str, bugs: tuple[object, ...]) -> None:
    """A kernel is accused up to the patch level before the fix, and no further."""
    assert known_bad(number, "#1 SMP") == bugs
    assert known_bad("6.1.0-53-amd64", DEBIAN.format(number)) == bugs


def test_vendor_kernel() -> None:
    """A vendor's own numbering is no evidence of a bug."""
    assert known_bad("6.1.0-22-amd64", UBUNTU) == ()


@given(st.text(max_size=40), st.text(max_size=80))
def test_any_text(release: str, version: str) -> None:
    """Whatever uname says, the answer is a tuple and no exception."""
    assert isinstance(known_bad(release, version), tuple)


@pytest.mark.parametrize("advisory", ADVISORIES)
def test_advisory_is_complete(advisory: Advisory) -> None:
    """Each entry names its CVE, its effect and at least one fixed series."""
    assert advisory.cve.startswith("CVE-")
    assert advisory.effect
    assert advisory.fixed
