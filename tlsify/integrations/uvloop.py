"""uvloop: its loop, with ``ssl=`` as tlsify's own loop has it."""

from __future__ import annotations

import uvloop

from tlsify.aio.loop import ByTlsify


class EventLoop(ByTlsify, uvloop.Loop):  # type: ignore[misc] # of uvloop's own stubs
    """uvloop's loop, with ``ssl=`` as `ByTlsify` has it.

    Connections with tlsify's SSLContext have a transport of tlsify's own, since uvloop's reads and
    writes the descriptor itself.
    """
