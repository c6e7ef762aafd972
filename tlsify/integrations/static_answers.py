"""Folder: the answer to a request for a file of a folder, from an open descriptor."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import re
import time
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from tlsify.http.answer import Answer, FilePart, refusal
from tlsify.http.request import HTTP10, HTTP11, Request
from tlsify.static import codings, listing, preconditions, ranges
from tlsify.static.beneath import Opened, open_beneath, open_folder_beneath, pin
from tlsify.static.media_types import media_type
from tlsify.static.preconditions import Verdict
from tlsify.static.ranges import Part
from tlsify.static.target import Target
from tlsify.static.validators import Validators

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_log = logging.getLogger("tlsify")

_NOT_FOUND = 404
# Seconds that the list of a folder is good for, and how many lists are kept.
_FRESH, _MOST_LISTS = 1.0, 16
_METHODS = ("GET", "HEAD")
# A host, which a URI of HTTPS cannot do without, and perhaps a port (RFC 3986 3.2.2).
_HOST = re.compile(
    r"(?:\[[0-9A-Za-z:.]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?"
)
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


@dataclass(frozen=True, slots=True)
class Rules:
    """What is served of a folder, and how.

    Attributes:
        dotfiles: whether to serve names that begin with a dot.
        precompressed: whether to look for variants in content codings.
        index: names of files that stand for their folders; the first that exists does.
        listing: whether to list folders without one.
        not_found: names that lead to the content of answers with status 404; None for none.
        cache_control: the field Cache-Control of files; None for none.
    """

    dotfiles: bool = False
    precompressed: bool = False
    index: Sequence[bytes] = (b"index.html",)
    listing: bool = False
    not_found: Sequence[bytes] | None = None
    cache_control: str | None = None


_NO_RULES = Rules()


class Folder:
    """A folder's files, and the answers to requests for them."""

    def __init__(self, root: Path, *, alias: Path | None = None, rules: Rules = _NO_RULES) -> None:
        """Open the folder.

        Args:
            root: its resolved path; it is opened anew for each request, unless it is pinned.
            alias: another absolute path of it, which links in it may begin with.
            rules: what is served of it.
        """
        self._root = os.fsencode(root)
        self._alias = None if alias is None else os.fsencode(alias)
        self._rules = rules
        self._pinned: int | None = None
        self._lists: dict[tuple[bytes, ...], tuple[float, bytes]] = {}

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
        if answer.status == _NOT_FOUND and self._rules.not_found is not None:
            answer = self._not_found(request, self._rules.not_found) or answer
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
        if target is None or (target.is_hidden and not self._rules.dotfiles):
            return refusal(404)
        return self._look_up(request, target)

    def _look_up(self, request: Request, target: Target) -> Answer:
        names = target.names
        try:
            return self._folder(request, target) if target.is_folder else self._file(request, names)
        except IsADirectoryError:
            if target.is_folder:
                return refusal(404)
            query = request.query
            return refusal(301, Location=target.reference() + (query and f"?{query}"))
        except OSError as exc:
            status = _STATUSES.get(exc.errno or 0, 500)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                _log.warning("cannot open %a: %s", b"/".join(names), exc)
            return refusal(status)

    def _folder(self, request: Request, target: Target) -> Answer:
        """Answer with a folder's index, or else with a list of what is in it.

        Raises:
            OSError: there is neither.
        """
        for name in self._rules.index:
            try:
                return self._file(request, [*target.names, name])
            except (FileNotFoundError, IsADirectoryError):
                continue
        if not self._rules.listing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        content = self._list(target)
        fields = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(content))}
        return Answer(200, fields, content)

    def _list(self, target: Target) -> bytes:
        """Return the list of a folder, which may be a moment old: it takes long to make.

        Raises:
            OSError: the folder cannot be read.
        """
        key, now = tuple(target.names), time.monotonic()
        made, content = self._lists.get(key, (-math.inf, b""))
        if now - made < _FRESH:
            return content
        descriptor = open_folder_beneath(self._root, target.names, self._alias, self._pinned)
        try:
            entries, is_all = listing.read(descriptor, partial(self._is_shown, target))
        finally:
            os.close(descriptor)
        is_top = not target.names
        content = listing.page(target.spelled(), entries, is_top=is_top, is_all=is_all)
        if len(self._lists) >= _MOST_LISTS:
            del self._lists[next(iter(self._lists))]
        self._lists[key] = now, content
        return content

    def _is_shown(self, target: Target, name: bytes) -> bool:
        is_hidden = Target([*target.names, name], is_folder=False).is_hidden
        return self._rules.dotfiles or not is_hidden

    def _not_found(self, request: Request, names: Sequence[bytes]) -> Answer | None:
        """Answer with the file for what is not found, whatever was asked of the request's own."""
        try:
            opened = open_beneath(self._root, names, self._alias, self._pinned)
        except OSError:
            return None
        size = opened.status.st_size
        fields = {"Content-Type": media_type(names[-1]), "Content-Length": str(size)}
        if request.method == "HEAD" or not size:
            os.close(opened.descriptor)
            return Answer(_NOT_FOUND, fields)
        return Answer(_NOT_FOUND, fields, FilePart(opened.descriptor, 0, size))

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
        if not self._rules.precompressed:
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
        if self._rules.cache_control is not None:
            headers["Cache-Control"] = self._rules.cache_control
        if self._rules.precompressed:
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
    host = request.field("Host")
    if host is None:
        return 400 if version == HTTP11 else 0
    return 400 if request.hosts > 1 or _HOST.fullmatch(host) is None else 0
