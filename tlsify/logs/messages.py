"""Messages: levels, text or JSON, and where they go: stderr, the journal or syslog."""

from __future__ import annotations

import logging
import os
import stat
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tlsify.errors import said, unusable
from tlsify.logs.stderr import Stderr
from tlsify.logs.text import moment, printable, spell_address, split_address

if TYPE_CHECKING:
    from collections.abc import Callable

# What an administrator should see, though nothing is wrong with the server: a refused client.
NOTICE = 25
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": NOTICE,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
# Of sd-daemon(3), and of syslog(3).
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, NOTICE: 5, logging.WARNING: 4, logging.ERROR: 3}
_CRITICAL = 2
_UNSAID = object()
_PROGRAM = "tlsify"
_SYSLOG = "/dev/log"
_STDERR = 2
# Messages about clients in so many seconds; further ones are counted, since clients decide how many
# there are. Errors, and those that were asked for in detail, are never left out.
_MOST, _WINDOW = 100, 10.0

# The peer of the connection that the calling code serves, as ``accept`` gives it: each message
# names it, whichever module it comes from.
peer: ContextVar[object] = ContextVar("tlsify_peer")

logging.addLevelName(NOTICE, "NOTICE")


def install(level: int, form: str = TEXT, *, syslog: bool = False, is_server: bool = False) -> None:
    """Write the messages of this process, and of those that it forks.

    A program that has its own handlers keeps them.

    Args:
        level: the lowest to be written.
        form: one of `FORMATS`.
        syslog: write them to the local syslog instead of stderr.
        is_server: whether the process serves others, and so does not wait for a reader of stderr.

    Raises:
        ConfigError: there is no syslog.
    """
    handler = _syslog() if syslog else _stream(is_server=is_server)
    if form == JSON:
        handler.setFormatter(_Json())
    elif syslog:
        handler.setFormatter(_Text(lambda _: f"{_PROGRAM}[{os.getpid()}]: "))
    else:
        handler.setFormatter(_Text(_timed_head(), is_marked=not is_journal()))
    if level > logging.INFO:
        handler.addFilter(_Flood())
    former = [each for each in logging.root.handlers if isinstance(each.formatter, _Text | _Json)]
    for each in former:  # installed before all options were known
        logging.root.removeHandler(each)
    logging.basicConfig(handlers=[handler], level=level)


def check_syslog() -> None:
    """Check that there is a syslog.

    Raises:
        ConfigError: there is none.
    """
    _syslog().close()


def announce(text: str) -> None:
    """Announce that a server is ready: a line on stdout, or a message where messages are JSON.

    A server does not depend on stdout: where nothing can be written, a warning says so, once, and
    what would follow is left out.
    """
    if is_json():
        logging.getLogger("tlsify").log(NOTICE, "%s", text)
        return
    try:
        print(f"{_PROGRAM}: {text}", flush=True)
    except OSError as exc:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stdout.fileno())  # for what is still in the stream, too
        os.close(nowhere)
        logging.getLogger("tlsify").warning("cannot write to stdout: %s", exc)


def report(error: str, hint: str) -> None:
    """Write the error that ends a process, or a connection, and its remedy: two lines on stderr.

    Where messages are JSON, or go to syslog, it is a message, too.
    """
    if is_json() or _is_syslog():
        logging.getLogger("tlsify").error("%s", error, extra={"hint": hint})
    if is_json():
        return
    begin, ours = _head(), _of_server()
    for level, kind, text in ((logging.ERROR, "error", error), (logging.INFO, "hint", hint)):
        line = f"{begin(level)}{kind}: {printable(text)}"
        if ours is None:
            print(line, file=sys.stderr)
        else:
            ours.put(line)


def is_json() -> bool:
    """Return whether messages are JSON objects."""
    return any(isinstance(each.formatter, _Json) for each in logging.getLogger().handlers)


def _stream(*, is_server: bool) -> logging.Handler:
    try:
        number = sys.stderr.fileno()
    except (OSError, AttributeError):  # closed, or not a file at all
        number = -1
    return Stderr(sys.stderr) if is_server and number == _STDERR else logging.StreamHandler()


def _of_server() -> Stderr | None:
    found = (each for each in logging.getLogger().handlers if isinstance(each, Stderr))
    return next(found, None)


def _is_syslog() -> bool:
    ours = [each for each in logging.getLogger().handlers if isinstance(each.formatter, _Text)]
    return any(not isinstance(each, logging.StreamHandler) for each in ours)


def _head() -> Callable[[int], str]:
    """Return what makes the beginning of a line on stderr, from its level.

    It is the program's name, behind the priority where stderr is the journal (sd-daemon(3)).
    """
    if is_journal():
        return lambda level: f"<{_priority(level)}>{_PROGRAM}: "
    return lambda _: f"{_PROGRAM}: "


def _timed_head() -> Callable[[int], str]:
    """Return the same for messages: behind the time where stderr is a file, which has no other."""
    begin = _head()
    if not is_journal() and _is_file():
        return lambda level: f"{moment()} {begin(level)}"
    return begin


def is_journal() -> bool:
    """Return whether stderr goes to the journal.

    Source: systemd.exec(5), JOURNAL_STREAM.
    """
    told, state = os.environ.get("JOURNAL_STREAM"), _stderr()
    return state is not None and told == f"{state.st_dev}:{state.st_ino}"


def _is_file() -> bool:
    state = _stderr()
    return state is not None and stat.S_ISREG(state.st_mode)


def _stderr() -> os.stat_result | None:
    """Return what stderr is; None if it is closed, or no file at all."""
    try:
        return os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _priority(level: int) -> int:
    return next((found for least, found in _PRIORITIES.items() if level <= least), _CRITICAL)


def _message(record: logging.LogRecord) -> str:
    if record.args and isinstance(record.args, tuple):
        return record.msg % tuple(
            said(each) if isinstance(each, OSError) else each for each in record.args
        )
    return record.getMessage()


def _peer_of(record: logging.LogRecord) -> object | None:
    """Return the peer that a message is about, as it says itself; None if it is about none."""
    found: object = getattr(record, "peer", _UNSAID)
    return peer.get(None) if found is _UNSAID else found


class _Text(logging.Formatter):
    """One line, but for tracebacks; where no priority tells a warning, a word does."""

    def __init__(self, head: Callable[[int], str], *, is_marked: bool = False) -> None:
        super().__init__()
        self._head = head
        self._is_marked = is_marked

    def format(self, record: logging.LogRecord) -> str:
        name = _peer_of(record)
        about = "" if name is None else f"{spell_address(name)}: "
        is_warning = self._is_marked and record.levelno == logging.WARNING
        kind = "warning: " if is_warning else ""
        lines = [kind + about + printable(_message(record))]
        if record.exc_info:
            lines += map(printable, self.formatException(record.exc_info).splitlines())
        begin = self._head(record.levelno)
        # A later line is a message of its own to the journal, which tells them apart by lines.
        return "\n".join([begin + lines[0], *(begin + line for line in lines[1:])])


class _Json(logging.Formatter):
    """One object, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        import json  # noqa: PLC0415 - a client starts sooner without it

        told: dict[str, Any] = {
            "time": moment(record.created),
            "level": record.levelname.lower(),
            "message": _message(record),
        }
        if (name := _peer_of(record)) is not None:
            told["client"], told["port"] = split_address(name)
        if (hint := getattr(record, "hint", None)) is not None:
            told["hint"] = hint
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class _Flood(logging.Filter):
    """Leaves out messages about clients where there are too many of them, and tells how many."""

    def __init__(self) -> None:
        super().__init__()
        self._until = 0.0
        self._number = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR or _peer_of(record) is None:
            return True
        now = time.monotonic()
        if now >= self._until:
            left_out, self._number = self._number - _MOST, 0
            self._until = now + _WINDOW
            if left_out > 0:
                record.msg = f"{record.getMessage()} ({left_out} such messages before it left out)"
                record.args = ()
        self._number += 1
        return self._number <= _MOST


def _syslog() -> logging.Handler:
    from tlsify.logs.syslog import Syslog  # noqa: PLC0415 - imports a mail client, for few

    try:
        return Syslog(_SYSLOG)
    except OSError as exc:
        hint = "leave out --syslog: stderr will do"
        raise unusable(f"no syslog at {_SYSLOG}", exc, hint) from exc
