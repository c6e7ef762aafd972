"""What clients say to a server, and how they read its answers, by the protocol that it speaks."""

from __future__ import annotations

import hashlib
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, BinaryIO, Self

if TYPE_CHECKING:
    from pathlib import Path


class Talk:
    """HTTP.

    Attributes:
        names: of what can be asked for.
        is_echo: whether only the client can end it.
    """

    names: tuple[str, ...] = ("page", "file")
    is_echo = False

    def __init__(self, root: Path, upload: str) -> None:
        """Store where the server's files are, and the method of an upload."""
        self._root, self._upload = root, upload

    def ask(self, name: str, *, last: bool = False) -> bytes:
        """Ask for a file; the server ends the connection behind the last one."""
        ending = "close" if last else "keep-alive"
        return f"GET /{name} HTTP/1.1\r\nHost: localhost\r\nConnection: {ending}\r\n\r\n".encode()

    def answer(self, stream: BinaryIO) -> bytes:
        """Read an answer."""
        kept: Any = _Kept(stream)
        with HTTPResponse(kept) as response:
            response.begin()
            body = response.read()
        if response.status not in {200, 201, 204}:
            raise AssertionError(f"status {response.status}: {body!r}")
        return body

    def expected(self, name: str) -> bytes:
        """Return the right answer."""
        return (self._root / name).read_bytes()

    def store(self) -> bytes:
        """Store what is asked for later, where it is not in files."""
        return b""

    def upload(self, data: bytes) -> bytes:
        """Send something to be stored, or to be digested."""
        path = "/upload" if self._upload == "PUT" else "/cgi-bin/upload"
        head = f"{self._upload} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
        return head.encode() + b"\r\nConnection: close\r\n\r\n" + data

    def has_arrived(self, data: bytes, answer: bytes) -> bool:
        """Return whether the server has what was sent, by its answer."""
        if self._upload == "PUT":
            return (self._root / "upload").read_bytes() == data
        return hashlib.sha256(data).hexdigest().encode() in answer


class _Redis(Talk):
    """Redis's protocol."""

    def ask(self, name: str, *, last: bool = False) -> bytes:
        """Ask for a value, and to be left, if it is the last one."""
        return _command(b"GET", name.encode()) + (_command(b"QUIT") if last else b"")

    def answer(self, stream: BinaryIO) -> bytes:
        """Read an answer."""
        head = stream.readline()
        if head[:1] != b"$":
            return head
        return stream.read(int(head[1:]) + 2)[:-2]

    def upload(self, data: bytes) -> bytes:
        """Store a value."""
        return _command(b"SET", b"upload", data) + _command(b"QUIT")

    def has_arrived(self, data: bytes, answer: bytes) -> bool:
        """Return whether it was stored."""
        return bool(data) and answer == b"+OK\r\n"

    def store(self) -> bytes:
        """Store what is asked for later."""
        return b"".join(_command(b"SET", each.encode(), self.expected(each)) for each in self.names)


def _command(*words: bytes) -> bytes:
    head = b"*%d\r\n" % len(words)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class _Echo(Talk):
    """Everything comes back."""

    names = ("page",)
    is_echo = True

    def ask(self, name: str, *, last: bool = False) -> bytes:
        """Send a file, however long it lasts."""
        del last
        return self.expected(name)

    def answer(self, stream: BinaryIO) -> bytes:
        """Read as much."""
        return stream.read(len(self.expected("page")))


class _Kept:
    """A stream in the place of a socket, and of its file, that stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def makefile(self, _: str) -> Self:
        """Return what can be read."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Do nothing."""


TALKS: dict[str, type[Talk]] = {"http": Talk, "redis": _Redis, "echo": _Echo}
