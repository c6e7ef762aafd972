"""A request's target: the names of the folders and of the file that it means, as bytes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# What belongs to protocols rather than to users (RFC 8615): ACME's challenges, for instance.
_WELL_KNOWN = b".well-known"


@dataclass(frozen=True, slots=True)
class Target:
    """Meaning of a path below the served folder.

    Attributes:
        names: of folders, one in the other, and last of a file or a folder; none is "." or "..",
            or has a slash or NUL in it.
        is_folder: whether the path can only mean a folder, since it ends in a slash.
    """

    names: Sequence[bytes]
    is_folder: bool

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """Decode a path; return None if no file can have such a name.

        Segments are told apart before they are decoded: an encoded slash is part of a name, and
        so of none that there is. Dot segments go up (RFC 3986 5.2.4), but not out of the folder.

        Args:
            path: as it was sent, percent-encoded, without the query.

        Raises:
            ValueError: it is no path (RFC 3986 2.1).
        """
        raw = path.encode("utf-8", "surrogateescape")
        is_encoded = b"%" in raw
        if is_encoded and _MALFORMED.search(raw):
            raise ValueError("a percent sign is not followed by two hexadecimal digits")
        names: list[bytes] = []
        name = b""
        for segment in raw.split(b"/"):
            name = unquote_to_bytes(segment) if is_encoded else segment
            if name == b"..":
                if not names:
                    return None
                names.pop()
            elif b"/" in name or b"\0" in name:
                return None
            elif name not in {b"", b"."}:
                names.append(name)
        return cls(names, name in {b"", b".", b".."})

    @property
    def is_hidden(self) -> bool:
        """Whether a name begins with a dot, apart from ".well-known" at the top."""
        names = self.names[1:] if self.names[:1] == [_WELL_KNOWN] else self.names
        return any(name.startswith(b".") for name in names)

    def spelled(self) -> str:
        """Spell it as a folder's path for people; it may have any characters."""
        return "/" + "".join(os.fsdecode(name) + "/" for name in self.names)

    def reference(self) -> str:
        """Spell it as a folder's path, encoded; it begins with one slash, and so names no host."""
        return "/" + "".join(quote(name) + "/" for name in self.names)
