"""Traffic: bytes of data that a connection has carried, each way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Bytes of data, without what records add to it.

    Attributes:
        received: from the peer.
        sent: to the peer; not all of it need have arrived.
    """

    received: int = 0
    sent: int = 0
