"""Folder: the answer to a request for a file of a folder, from an open descriptor."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING

from tlsify.http.answer import Answer, FilePart, refusal
from tlsify.http.request import HTTP10, HTTP11, Request
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

    def answer(self, request: Request) -> Answer:
        """Make the answer, which has the file open, if it is one.

        Opening does not wait, but for a disk; a thread for it would take longer than it does.
        """
        fault = _fault(request)
        answer = refusal(fault) if fault else self._answer(request)
        # Whether content follows an answer that comes at once is not known (10.1.1).
        answer.closes = fault != 0 or request.field("Expect") is not None
        return answer

    def _answer(self, request: Request) -> Answer:
        if request.method not in _METHODS:
            return refusal(405, Allow=", ".join(_METHODS))
        try:
            target = Target.parse(request.path)
        except ValueError:
            return refusal(400)
        if target is None or (target.is_hidden and not self._dotfiles):
            return refusal(404)
        return self._look_up(request, target)

    def _look_up(self, request: Request, target: Target) -> Answer:
        names = [*target.names, _INDEX] if target.is_folder else target.names
        try:
            return self._file(request, names)
        except IsADirectoryError:
            if target.is_folder:
                return refusal(404)
            query = request.query
            return refusal(301, Location=target.reference() + (query and f"?{query}"))
        except OSError as exc:
            status = _STATUSES.get(exc.errno or 0, 500)
            if status >= 500:  # noqa: PLR2004 - server errors
                _log.warning("cannot open %a: %s", b"/".join(names), exc.strerror)
            return refusal(status)

    def _file(self, request: Request, names: Sequence[bytes]) -> Answer:
        opened, coding = self._choose(names, request.field("Accept-Encoding"))
        try:
            answer = self._represent(request, names[-1], opened, coding)
        except BaseException:
            os.close(opened.descriptor)
            raise
        if not isinstance(answer.content, FilePart):
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

    def _represent(self, request: Request, name: bytes, opened: Opened, coding: str) -> Answer:
        """Apply conditions and range."""
        validators = Validators.of(opened.status, coding)
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": validators.etag,
            "Last-Modified": validators.last_modified,
        }
        if self._precompressed:
            headers["Vary"] = "Accept-Encoding"
        verdict = preconditions.judge(request.field, validators)
        if verdict is Verdict.FAILED:
            return refusal(412, **headers)
        if verdict is Verdict.NOT_MODIFIED:
            return Answer(304, headers)

        size = opened.status.st_size
        part, status = Part(0, size), 200
        asked = request.field("Range") if request.method == "GET" else None
        if asked is not None and preconditions.range_is_wanted(request.field, validators):
            try:
                found = ranges.parse(asked, size)
            except ranges.Unsatisfiable:
                return refusal(416, **headers, **{"Content-Range": f"bytes */{size}"})
            if found is not None:
                part, status = found, 206
                end = part.offset + part.size - 1
                headers["Content-Range"] = f"bytes {part.offset}-{end}/{size}"
        headers["Content-Type"] = media_type(name)
        headers["Content-Length"] = str(part.size)
        if coding:
            headers["Content-Encoding"] = coding
        if request.method == "HEAD" or not part.size:
            return Answer(status, headers)
        return Answer(status, headers, FilePart(opened.descriptor, *part))


def _fault(request: Request) -> int:
    """Return the status that refuses a message which is none of HTTP/1.0 or 1.1; 0 if it is one."""
    version = request.version
    if version not in {HTTP10, HTTP11}:
        return 505 if version > HTTP11 else 400
    if version == HTTP10 and request.field("Transfer-Encoding") is not None:
        return 400  # where its content ends is not sure (RFC 9112 6.1)
    return 400 if request.hosts > 1 or (not request.hosts and version == HTTP11) else 0
