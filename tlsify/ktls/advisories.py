"""Known-bad kernels: which CVE, what it breaks, where it was fixed."""

from __future__ import annotations

import re
from typing import NamedTuple

# A release such as 6.1.0-53-amd64 hides the true version; Debian tells it in uname -v.
_DEBIAN_VERSION = re.compile(r"Debian (\d+)\.(\d+)\.(\d+)")
_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class Advisory(NamedTuple):
    """One kernel bug that makes offloading unsafe.

    Attributes:
        cve: its name.
        effect: what it does to a kTLS socket.
        fixed: patch level that has the fix, for each long-term series (major, minor).
    """

    cve: str
    effect: str
    fixed: dict[tuple[int, int], int]


ADVISORIES = (
    Advisory(
        "CVE-2025-39682",
        "zero-length records confuse the type of received records; exploited in the wild",
        {(6, 1): 153, (6, 12): 48},
    ),
    Advisory(
        "CVE-2025-39946",
        "a bogus record header does not abort the stream",
        {(6, 1): 158, (6, 12): 57},
    ),
)


def true_version(release: str, version: str) -> tuple[int, int, int] | None:
    """Find the upstream version of a kernel.

    Args:
        release: ``uname -r``.
        version: ``uname -v``.

    Returns:
        None where a vendor's numbering hides it, so that fixes cannot be judged by number.
    """
    match = _DEBIAN_VERSION.search(version) or _RELEASE.match(release)
    if match is None:
        return None
    major, minor, patch = map(int, match.groups())
    return (major, minor, patch) if patch else None


def known_bad(release: str, version: str) -> tuple[Advisory, ...]:
    """List the bugs that a kernel is known to have; an unknown series is not accused."""
    numbers = true_version(release, version)
    if numbers is None:
        return ()
    major, minor, patch = numbers
    return tuple(
        advisory for advisory in ADVISORIES if patch < advisory.fixed.get((major, minor), 0)
    )
