"""Errors -> messages, and back: of the same class, with the same attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlsify import errors
from tlsify.codepoints import AlertDescription

if TYPE_CHECKING:
    from tlsify.agent.wire import Ended, Failed

# The numbers are the wire's: they never change their meaning.
NUMBERS: dict[int, type[errors.TlsifyError | OSError]] = {
    1: errors.TlsifyError,
    2: errors.ConfigError,
    3: errors.NetworkError,
    4: errors.HandshakeError,
    5: errors.PeerAlert,
    6: errors.PeerMisbehaved,
    7: errors.KeyUpdateRefused,
    8: errors.IdentityError,
    9: errors.Truncated,
    10: errors.KtlsError,
    11: errors.KtlsUnavailable,
    12: errors.KtlsCommitError,
    13: errors.RekeyUnsupported,
    14: errors.AgentError,
    15: errors.DeadlineExceeded,
    16: OSError,
    17: errors.WorkerError,
    18: errors.BackendError,
    19: errors.ConnectionCut,
    20: errors.ResourceError,
    21: errors.KeyHolderError,
    22: errors.UsageError,
    23: errors.ProxyHeaderError,
    24: errors.NoCertificate,
}
_NUMBER_OF: dict[type, int] = {kind: number for number, kind in NUMBERS.items()}
_ATTRIBUTES: dict[type[Exception], tuple[str, ...]] = {
    errors.TlsifyError: ("hint",),
    errors.HandshakeError: ("alert",),
    errors.IdentityError: ("mismatches",),
    errors.KtlsError: ("step", "errno"),
    errors.KtlsUnavailable: ("code", "sentence"),
    errors.AgentError: ("untouched",),
    OSError: ("errno",),
}
# Text from a peer must not prevent an error from fitting into a message.
_LONGEST, _LONGEST_NAME = 2**14, 2**8
_MOST_NAMES = 2**7


def describe(
    error: errors.TlsifyError | OSError | None, form: type[Failed | Ended]
) -> Failed | Ended:
    """Encode an error as a message; None stands for no error."""
    if error is None:
        return form()
    number = next(_NUMBER_OF[kind] for kind in type(error).__mro__ if kind in _NUMBER_OF)
    said: dict[str, Any] = {name: getattr(error, name) for name in _attributes(type(error))}
    if "mismatches" in said:
        said["mismatches"] = tuple(
            _short(name, _LONGEST_NAME) for name in said["mismatches"][:_MOST_NAMES]
        )
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    said |= {name: _short(said[name]) for name in ("hint", "sentence") if said.get(name)}
    return form(error=number, message=_short(text), **said)


def _attributes(kind: type[Exception]) -> list[str]:
    return [name for one, names in _ATTRIBUTES.items() if issubclass(kind, one) for name in names]


def _short(text: str, most: int = _LONGEST) -> str:
    """Return text that can be encoded, cut to ``most`` bytes."""
    clean = text.encode("utf-8", "backslashreplace").replace(b"\0", rb"\x00")
    return clean[:most].decode("utf-8", "ignore")


def revive(said: Failed | Ended) -> errors.TlsifyError | OSError | None:
    """Decode an error from a message; None if there was none.

    Raises:
        errors.AgentError: there is no such error.
    """
    if said.error == 0:
        return None
    kind = NUMBERS.get(said.error)
    if kind is None:
        raise errors.AgentError(f"the agent reports unknown error {said.error}", untouched=False)
    if not issubclass(kind, errors.TlsifyError):
        return OSError(said.errno or 0, said.message)
    # The arguments have already been through the constructors.
    error = kind.__new__(kind, said.message)
    error.args = (said.message,)
    for name in _attributes(kind):
        setattr(error, name, getattr(said, name))
    error.hint = said.hint or kind.general_hint
    if isinstance(error, errors.HandshakeError):
        error.alert = None if said.alert is None else AlertDescription.known(said.alert)
    return error
