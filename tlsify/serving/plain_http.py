"""Plain HTTP beside HTTPS: redirections, and the answers to ACME's challenges (RFC 8555 8.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tlsify.http import plain
from tlsify.http.answer import short
from tlsify.http.endpoint import Bounds, request_line
from tlsify.metrics.counters import Event, count

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tlsify.logs.access import AccessLog

# Of each worker. A head may be as long as one over HTTPS: browsers send the same cookies.
BOUNDS = Bounds(head=2**15, at_once=64)
_CHALLENGE = re.compile(r"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,256})")
_REFUSED = 400


def _no_challenge(_token: str) -> None:
    return None


class PlainHttp(NamedTuple):
    """What is served without TLS.

    Attributes:
        listeners: bound and listening, each for an `http.endpoint.Endpoint` of each worker.
        port: where HTTPS is.
        challenge: returns the key authorization that belongs to a token of ACME's challenge
            HTTP-01; None if there is none.
    """

    listeners: Sequence[socket.socket] = ()
    port: int = 443
    challenge: Callable[[str], str | None] = _no_challenge


class Redirector:
    """Redirects requests to HTTPS (`http.endpoint.Respond`), apart from those of ACME's servers."""

    def __init__(self, plan: PlainHttp, access_log: AccessLog | None) -> None:
        """Store what does not change.

        Args:
            plan: port and challenges.
            access_log: gets a line for each request.
        """
        self._plan = plan
        self._access_log = access_log

    def __call__(self, head: bytes, name: object) -> bytes:
        """Return the answer to a request.

        Args:
            head: of the request; empty if it was too long.
            name: the client's address, as ``accept`` gives it.
        """
        method, target, _ = request_line(head)
        asked = _CHALLENGE.fullmatch(target) if method in {"GET", "HEAD"} else None
        proof = None if asked is None else self._plan.challenge(asked[1])
        if proof is not None:
            answer, event = short(200, proof), Event.PLAIN_CHALLENGE
        else:
            answer = plain.redirection(head, self._plan.port)
            is_refused = answer.status >= _REFUSED
            event = Event.PLAIN_REFUSED if is_refused else Event.PLAIN_REDIRECTED
        count(event)
        if self._access_log is not None:
            told = {"method": method or None, "target": target or None, "status": answer.status}
            self._access_log.plain(name, told)
        return answer.spell(with_content=method != "HEAD")
