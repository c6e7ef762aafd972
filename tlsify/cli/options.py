"""Options that several verbs share, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from tlsify.cli import GlobalOptions

_MAX_PORT = 65535
_MAX_COUNT = 1024
_MAX_SECONDS = 1e6  # what poll takes in milliseconds


def policy(options: GlobalOptions) -> KtlsPolicy:
    """Turn the global options into a policy."""
    return KtlsPolicy(
        mode=KtlsMode(options.ktls),
        rekey_required=options.ktls_rekey == "require",
        any_kernel=options.ktls_any_kernel,
    )


def port(text: str) -> int:
    """Read a port number, for argparse."""
    number = int(text)
    if not 0 <= number <= _MAX_PORT:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """Read a positive number of seconds, for argparse."""
    number = float(text)
    if not 0 < number <= _MAX_SECONDS:
        raise ValueError(text)
    return number


def address(text: str) -> tuple[str, int]:
    """Read ``ADDR:PORT``, ``[ADDR]:PORT`` or ``:PORT``.

    Raises:
        ConfigError: it is none of them.
    """
    host, colon, number = text.rpartition(":")
    try:
        # Without a colon an address may be missing by mistake, and every interface is a lot.
        name = host.removeprefix("[").removesuffix("]").encode("idna").decode("ascii")
        return name, port(number if colon else "")
    except ValueError as exc:
        raise ConfigError(
            f'"{text}" is not ADDR:PORT', hint="write 127.0.0.1:8443, [::1]:8443 or :8443"
        ) from exc


def count(text: str) -> int:
    """Read a number of processes, for argparse."""
    number = int(text)
    if not 1 <= number <= _MAX_COUNT:
        raise ValueError(text)
    return number
