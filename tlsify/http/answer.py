"""Answers: status, fields and content, and the header section that is made of them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache

_PHRASES = {
    200: "OK",
    206: "Partial Content",
    301: "Moved Permanently",
    304: "Not Modified",
    308: "Permanent Redirect",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    412: "Precondition Failed",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class FilePart:
    """Some bytes of an open file.

    Attributes:
        descriptor: belongs to the answer.
        offset: where they begin.
        size: how many they are.
    """

    descriptor: int
    offset: int
    size: int

    def read(self) -> bytes:
        """Return them; fewer if the file is shorter by now.

        Raises:
            OSError: it cannot be read.
        """
        return os.pread(self.descriptor, self.size, self.offset)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


@dataclass(slots=True)
class Answer:
    """The answer to a request.

    Attributes:
        status: one that has a phrase here.
        fields: all but those about the connection and the moment.
        content: follows the header section; a file is the receiver's to close.
        closes: whether the connection ends with it.
    """

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    content: bytes | FilePart = b""
    closes: bool = False

    def head(self, connection: str | None, more: str = "") -> bytes:
        """Return the header section.

        Args:
            connection: the field Connection; None for none.
            more: further lines, each with its end.
        """
        lines = [f"HTTP/1.1 {self.status} {_PHRASES[self.status]}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in self.fields.items()]
        lines.append(f"Date: {_date(int(time.time()))}\r\n")
        if connection is not None:
            lines.append(f"Connection: {connection}\r\n")
        lines += [more, "\r\n"]
        return "".join(lines).encode("utf-8", "surrogateescape")

    def spell(self, *, with_content: bool = True) -> bytes:
        """Return all of an answer that has no file, and after which the connection ends."""
        content = self.content if with_content and isinstance(self.content, bytes) else b""
        return self.head("close") + content


def refusal(status: int, **fields: str) -> Answer:
    """Make an answer without a file, with a line for people."""
    answer = short(status, f"{status}: {_PHRASES[status]}")
    answer.fields |= fields
    return answer


def short(status: int, text: str, kind: str = _TEXT) -> Answer:
    """Make an answer that is a text."""
    content = text.encode()
    return Answer(status, {"Content-Type": kind, "Content-Length": str(len(content))}, content)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
