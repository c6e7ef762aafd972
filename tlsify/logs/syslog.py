"""Syslog: the standard library's handler, which never makes the server wait for a slow daemon."""

from __future__ import annotations

from logging.handlers import SysLogHandler
from typing import TYPE_CHECKING

from tlsify.metrics.counters import Event, count

if TYPE_CHECKING:
    import logging
    import socket


class Syslog(SysLogHandler):
    """Writes messages to the local syslog; those that it does not take now are counted."""

    socket: socket.socket

    def __init__(self, path: str) -> None:
        """Connect.

        Raises:
            OSError: there is no syslog.
        """
        super().__init__(path, SysLogHandler.LOG_DAEMON)
        self.append_nul = False  # a datagram ends by itself
        if self.socket.fileno() == -1:  # logging would go on without a word
            self._connect_unixsocket(path)

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc] # which opens it anew, too
        self.socket.settimeout(0)

    def mapPriority(self, levelName: str) -> str:
        """Return syslog's name of a level."""
        return "notice" if levelName == "NOTICE" else super().mapPriority(levelName)

    def handleError(self, record: logging.LogRecord) -> None:
        """Count a message that is lost."""
        del record
        count(Event.LOG_LINE_LOST)
