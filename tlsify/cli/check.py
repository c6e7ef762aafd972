"""tlsify check: say what this host can offload, and why not what it cannot."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tlsify import __version__
from tlsify.errors import ExitCode
from tlsify.status import examine

if TYPE_CHECKING:
    import argparse

    from tlsify.cli import GlobalOptions
    from tlsify.status import Report

DESCRIPTION = (
    "Try kernel TLS on loopback connections, and explain what does not work. The exit status is "
    "0 if TLS 1.3 with AES-GCM is offloaded in both directions, 103 otherwise."
)
_WIDTH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Examine the host and print what was found."""
    report = examine()
    if arguments.json:
        print(json.dumps({"tlsify": __version__, **asdict(report)}, indent=2))
    else:
        _print_table(report)
    del options  # what this host can do does not depend on what is asked of it
    return ExitCode.OK if report.usable else ExitCode.KTLS


def _print_table(report: Report) -> None:
    for finding in report.findings:
        mark = "yes" if finding.ok else "NO "
        print(f"{mark} {finding.subject:<{_WIDTH}} {finding.detail}")
        if finding.remedy:
            print(f"    {'':<{_WIDTH}} -> {finding.remedy}")
    verdict = "the kernel carries TLS here" if report.usable else "TLS is relayed here"
    print(f"\n{verdict}: TLS 1.3 AES-GCM, both directions: {'yes' if report.usable else 'no'}")
