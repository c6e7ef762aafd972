"""How a connection went: what the program got, how it ended for it, what the peer saw."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Self

from tlsify.codepoints import AlertDescription
from tlsify.errors import HandshakeError, TlsifyError

# What the program writes once it has read to the end, whatever that end is: does it arrive?
FAREWELL = b"farewell"
_SHORT = 24


@dataclass(frozen=True)
class Outcome:
    """One connection's.

    Attributes:
        got: the data that the program received.
        end: how reading ended for it: "end" in good order, else the error and its alert or errno.
        saw: what the peer saw, in order: data, alerts, KeyUpdates, and how the stream ended.
    """

    got: bytes
    end: str
    saw: tuple[str, ...]

    def after(self, *seen: str) -> Self:
        """Expect the peer to see something before the rest."""
        return replace(self, saw=(*seen, *self.saw))

    def without_alert(self) -> Self:
        """Expect the peer to see that our direction had ended in good order already."""
        return replace(self, saw=("close_notify", "FIN"))

    def __str__(self) -> str:
        """Spell it for the page."""
        received = spell(self.got) or "nothing"
        return f"{received}; {self.end}; peer sees {', '.join(self.saw) or 'nothing'}"


def spell(data: bytes) -> str:
    """Spell data: short ones as they are, of others how many bytes."""
    return data.decode("ascii") if len(data) <= _SHORT else f"{len(data)} bytes"


def _closed(answer: bytes | None) -> tuple[str, ...]:
    data = () if answer is None else (spell(answer + FAREWELL),)
    return (*data, "close_notify", "FIN")


def in_order(got: bytes = b"ab", answer: bytes | None = b"") -> Outcome:
    """Both directions end with close_notify.

    Args:
        got: what the program receives.
        answer: what arrives of it in front of its farewell; None if it has said farewell before.
    """
    return Outcome(got, "end", _closed(answer))


def cut(got: bytes = b"a", answer: bytes | None = b"") -> Outcome:
    """The peer's direction was cut, and ours goes on; arguments are `in_order`'s."""
    return Outcome(got, "Truncated", _closed(answer))


def refused(alert: AlertDescription, got: bytes = b"a") -> Outcome:
    """The peer is told by an alert what it did wrong, and so is the program."""
    return Outcome(got, f"PeerMisbehaved: {alert.name}", (alert.name, "FIN"))


def given_up(alert: AlertDescription | int, got: bytes = b"a") -> Outcome:
    """The peer's alert ended it; none is sent in return."""
    name = alert.name if isinstance(alert, AlertDescription) else "none"
    return Outcome(got, f"PeerAlert: {name}", ("FIN",))


def broken(number: int = errno.ECONNRESET, got: bytes = b"a") -> Outcome:
    """TCP ended it: nothing can be sent or seen any more."""
    return Outcome(got, errno.errorcode[number], ())


def no_rekey(got: bytes = b"a") -> Outcome:
    """The peer has changed its key, and the kernel cannot."""
    return Outcome(got, "KeyUpdateRefused: internal_error", ("internal_error", "FIN"))


def name(error: TlsifyError | OSError) -> str:
    """Name what a program was told."""
    if isinstance(error, HandshakeError):
        kind = type(error).__name__
        if kind == "Truncated":
            return kind
        return f"{kind}: {error.alert.name if error.alert is not None else 'none'}"
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode[error.errno]
    return type(error).__name__
