"""Accept-Encoding: which content codings of a file a client would rather have (RFC 9110 12.5.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# By which endings files in a coding are known; the better one first.
ENDINGS = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}
_ALIASES = {"x-gzip": "gzip"}
_MEMBER = re.compile(
    r"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[\t ]*;[\t ]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?",
    re.IGNORECASE,
)


def wanted(field: str | None) -> Sequence[str]:
    """Return the codings to be preferred to none at all, the most wanted one first.

    Args:
        field: its lines joined by commas; None if there is none, which asks for nothing.
    """
    if not field:
        return ()
    weights: dict[str, float] = {}
    for text in field.split(","):
        member = _MEMBER.fullmatch(text.strip("\t "))
        if member is not None:  # others are no members, and ask for nothing
            name = member[1].lower()
            weights.setdefault(_ALIASES.get(name, name), float(member[2] or 1))
    others = weights.get("*", 0.0)
    plain = weights.get("identity", 0.0)
    found = [(weights.get(coding, others), coding) for coding in ENDINGS]
    chosen = [each for each in found if each[0] > 0 and each[0] >= plain]
    return [coding for _, coding in sorted(chosen, key=lambda each: -each[0])]
