"""aiohttp: the answer to a request for a file of a folder, sent from an open descriptor."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from io import FileIO
from typing import TYPE_CHECKING, cast

from aiohttp import HttpVersion10, HttpVersion11, web

from tlsify.static import codings, preconditions, ranges
from tlsify.static.beneath import Opened, open_beneath, pin
from tlsify.static.media_types import media_type
from tlsify.static.preconditions import Verdict
from tlsify.static.ranges import Part
from tlsify.static.target import Target
from tlsify.static.validators import Validators

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from aiohttp import HttpVersion
    from aiohttp.abc import AbstractStreamWriter

_log = logging.getLogger("tlsify")

_INDEX = b"index.html"
_METHODS = ("GET", "HEAD")
# What a file that cannot be opened is to the client. Others are faults of the host.
_STATUSES = {
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.ENOENT: 404,
    errno.ENOTDIR: 404,
    errno.ELOOP: 404,
    errno.ENAMETOOLONG: 404,
    errno.EINVAL: 404,
    # There may be descriptors or memory again soon, or another process gives up its lease.
    errno.EMFILE: 503,
    errno.ENFILE: 503,
    errno.ENOMEM: 503,
    errno.EAGAIN: 503,
}


class Request(web.BaseRequest):
    """A request; whatever version it claims, it is answered in one that we speak."""

    @property
    def claimed(self) -> HttpVersion:
        """The version that it claims."""
        return super().version

    @property
    def version(self) -> HttpVersion:
        """The version to answer in."""
        claimed = super().version
        return claimed if claimed in {HttpVersion10, HttpVersion11} else HttpVersion11


class Folder:
    """A folder's files, and the answers to requests for them."""

    def __init__(
        self,
        root: Path,
        *,
        alias: Path | None = None,
        dotfiles: bool = False,
        precompressed: bool = False,
    ) -> None:
        """Take the folder.

        Args:
            root: its resolved path; it is opened anew for each request, unless it is pinned.
            alias: another absolute path of it, which links in it may begin with.
            dotfiles: whether to serve names that begin with a dot.
            precompressed: whether to look for variants in content codings.
        """
        self._root = os.fsencode(root)
        self._alias = None if alias is None else os.fsencode(alias)
        self._dotfiles = dotfiles
        self._precompressed = precompressed
        self._pinned: int | None = None

    def pin(self) -> None:
        """Pin the folder that exists now, against replacement."""
        with contextlib.suppress(OSError):  # each request will find that out, too
            self._pinned = pin(self._root)

    def answer(self, request: Request) -> web.StreamResponse:
        """Make the answer, which has the file open, if it is one.

        Opening does not wait, but for a disk; a thread for it would take longer than it does.
        """
        fault = _fault(request)
        answer = _refusal(fault) if fault else self._answer(request)
        if fault or "Expect" in request.headers:
            # Whether content follows an answer that comes at once is not known (10.1.1).
            answer.force_close()
        return answer

    def _answer(self, request: Request) -> web.StreamResponse:
        if request.method not in _METHODS:
            return _refusal(405, Allow=", ".join(_METHODS))
        try:
            target = Target.parse(request.rel_url.raw_path)
        except ValueError:
            return _refusal(400)
        if target is None or (target.is_hidden and not self._dotfiles):
            return _refusal(404)
        return self._look_up(request, target)

    def _look_up(self, request: Request, target: Target) -> web.StreamResponse:
        names = [*target.names, _INDEX] if target.is_folder else target.names
        try:
            return self._file(request, names)
        except IsADirectoryError:
            if target.is_folder:
                return _refusal(404)
            query = request.rel_url.raw_query_string
            return _refusal(301, Location=target.reference() + (query and f"?{query}"))
        except OSError as exc:
            status = _STATUSES.get(exc.errno or 0, 500)
            if status >= 500:  # noqa: PLR2004 - server errors
                _log.warning("cannot open %a: %s", b"/".join(names), exc.strerror)
            return _refusal(status)

    def _file(self, request: Request, names: Sequence[bytes]) -> web.StreamResponse:
        opened, coding = self._choose(names, _field(request, "Accept-Encoding"))
        try:
            answer = self._represent(request, names[-1], opened, coding)
        except BaseException:
            os.close(opened.descriptor)
            raise
        if not isinstance(answer, _FileAnswer):
            os.close(opened.descriptor)
        return answer

    def _choose(self, names: Sequence[bytes], accepted: str | None) -> tuple[Opened, str]:
        """Open the file, or a variant of it that is not older and that the client prefers."""
        plain = open_beneath(self._root, names, self._alias, self._pinned)
        if not self._precompressed:
            return plain, ""
        for coding in codings.wanted(accepted):
            name = names[-1] + codings.ENDINGS[coding]
            try:
                variant = open_beneath(self._root, [*names[:-1], name], self._alias, self._pinned)
            except OSError:
                continue
            if variant.status.st_mtime_ns >= plain.status.st_mtime_ns:
                os.close(plain.descriptor)
                return variant, coding
            os.close(variant.descriptor)
        return plain, ""

    def _represent(
        self, request: Request, name: bytes, opened: Opened, coding: str
    ) -> web.StreamResponse:
        """Apply conditions and range."""
        validators = Validators.of(opened.status, coding)
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": validators.etag,
            "Last-Modified": validators.last_modified,
        }
        if self._precompressed:
            headers["Vary"] = "Accept-Encoding"

        def field(name: str) -> str | None:
            return _field(request, name)

        verdict = preconditions.judge(field, validators)
        if verdict is Verdict.FAILED:
            return _refusal(412, **headers)
        if verdict is Verdict.NOT_MODIFIED:
            return web.StreamResponse(status=304, headers=headers)

        size = opened.status.st_size
        part, status = Part(0, size), 200
        asked = field("Range") if request.method == "GET" else None
        if asked is not None and preconditions.range_is_wanted(field, validators):
            try:
                found = ranges.parse(asked, size)
            except ranges.Unsatisfiable:
                return _refusal(416, **headers, **{"Content-Range": f"bytes */{size}"})
            if found is not None:
                part, status = found, 206
                end = part.offset + part.size - 1
                headers["Content-Range"] = f"bytes {part.offset}-{end}/{size}"
        headers["Content-Type"] = media_type(name)
        headers["Content-Length"] = str(part.size)
        if coding:
            headers["Content-Encoding"] = coding
        if request.method == "HEAD" or not part.size:
            return web.StreamResponse(status=status, headers=headers)
        return _FileAnswer(status, headers, opened.descriptor, part)


class _FileAnswer(web.StreamResponse):
    """A part of an open file, which it closes once that is sent."""

    def __init__(self, status: int, headers: dict[str, str], descriptor: int, part: Part) -> None:
        super().__init__(status=status, headers=headers)
        self._file = FileIO(descriptor)
        self._part = part

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the header section, and then the file, by the loop's ``sendfile``.

        That ends the connection without close_notify if the file has become shorter meanwhile,
        since the client would take the next answer for the rest of it.
        """
        with self._file:
            writer = await super().prepare(request)
            transport = request.transport
            if transport is None:
                raise ConnectionResetError(errno.ECONNRESET, "the connection was lost")
            try:
                await asyncio.get_running_loop().sendfile(
                    cast("asyncio.WriteTransport", transport),
                    cast("BinaryIO", self._file),
                    *self._part,
                )
            except ConnectionError:
                raise
            except OSError as exc:
                _log.warning("connection ended: a file cannot be read: %s", exc.strerror)
                raise ConnectionAbortedError(errno.ECONNABORTED, "it has been cut") from exc
        return writer


def _field(request: Request, name: str) -> str | None:
    """Return a field, its lines joined (RFC 9110 5.2)."""
    lines = request.headers.getall(name, None)
    return None if lines is None else ", ".join(lines)


def _refusal(status: int, **headers: str) -> web.Response:
    """Make an answer without a file, with a line for people."""
    answer = web.Response(status=status, headers=headers)
    answer.text = f"{status}: {answer.reason}"
    return answer


def _fault(request: Request) -> int:
    """Return the status that refuses a message which is none of HTTP/1.0 or 1.1; 0 if it is one."""
    if request.claimed != request.version:
        return 505 if request.claimed > HttpVersion11 else 400
    hosts = len(request.headers.getall("Host", ()))
    return 400 if hosts > 1 or (not hosts and request.version == HttpVersion11) else 0
