"""tlsify version: the versions of tlsify and its dependencies, and the carrier on this host."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend

from tlsify import __version__
from tlsify.cli.options import common as shared
from tlsify.connection.setup.eligibility import host_refusal
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions

DESCRIPTION = "Print the versions of tlsify, Python, OpenSSL and kernel, and the carrier."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing."""
    del parser


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print a line for each."""
    del arguments
    refusal = host_refusal(shared.policy(options))
    carrier = "kernel TLS" if refusal is None else f"relay ({refusal.code}: {refusal.sentence})"
    print(f"tlsify {__version__}")
    print(f"Python {platform.python_version()} ({sys.executable})")
    print(f"{backend.openssl_version_text()} (cryptography {cryptography.__version__})")
    print(f"{platform.system()} {platform.release()} {platform.machine()}")
    print(f"carrier: {carrier}")
    print(*addresses(), sep="", end="")
    return ExitCode.OK


def addresses() -> list[str]:
    """Return the project's addresses, a line each, as the installed package has them."""
    try:
        found = metadata.metadata("tlsify").get_all("Project-URL", [])
    except metadata.PackageNotFoundError:  # run from a clone as it is
        return []
    return [f"{label}: {address}\n" for label, address in (line.split(", ", 1) for line in found)]
