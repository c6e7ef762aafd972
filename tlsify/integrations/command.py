"""Commands of servers with tlsify: errors before the start, in two lines."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from tlsify.errors import ConfigError, TlsifyError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Print an error of tlsify's as the command tlsify does, and exit with its status."""
    try:
        yield
    except TlsifyError as exc:
        print(f"tlsify: error: {exc}\ntlsify: hint: {exc.hint}", file=sys.stderr)
        sys.exit(exc.exit_code)


def require_certificate(certificate: object, options: str) -> None:
    """Check that a server has a certificate: without, it would serve in plain text.

    Args:
        certificate: the server's setting.
        options: the options that it comes from.

    Raises:
        ConfigError: there is none.
    """
    if not certificate:
        raise ConfigError("there is no certificate for TLS", hint=f"give {options}")
