"""tlsify check: report what this host can offload, and why the rest cannot be."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify import __version__
from tlsify.cli.report import terminal
from tlsify.errors import ExitCode
from tlsify.logs.text import printable
from tlsify.status.host import examine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from tlsify.cli.parser import GlobalOptions
    from tlsify.status.host import Finding, Report

DESCRIPTION = (
    "Try kernel TLS on loopback connections, and explain what does not work. The exit status is "
    "0 if TLS 1.3 with AES-GCM is offloaded in both directions, 103 otherwise. With --config it is "
    "0 if the service would start, or the service's own."
)
_WIDTH = 26
# Only what needs action is loud.
_MARKS = {True: "yes", False: "NO", None: "info"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="check a configuration file, and what it names, without starting anything",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Examine the host, or a configuration, and print what was found."""
    if arguments.config is not None:
        return _check_config(arguments.config, as_json=arguments.json)
    report = examine()
    if arguments.json:
        print(json.dumps({"tlsify": __version__, **asdict(report)}, indent=2))
    else:
        _print_table(report)
    del options  # what this host can do does not depend on what is asked of it
    return ExitCode.OK if report.usable else ExitCode.KTLS


def _check_config(path: Path, *, as_json: bool) -> int:
    from tlsify.cli.report import config_check  # as much again, which the host's report is spared

    status, findings = config_check.examine(path)
    if as_json:
        listed = [asdict(finding) for finding in findings]
        print(json.dumps({"tlsify": __version__, "findings": listed}, indent=2))
    else:
        _print_findings(findings)
    return status


def _print_table(report: Report) -> None:
    _print_findings(report.findings)
    carrier = "the kernel carries" if report.usable else "tlsify relays"
    print(f"\n{carrier} TLS 1.3 with AES-GCM here")
    remedies = sorted(
        (finding for finding in report.findings if finding.remedy and finding.ok is False),
        key=lambda finding: not finding.blocking,
    )
    if remedies:
        remedy = remedies[0].remedy or ""
        print(terminal.beside("to improve that: ", remedy, terminal.width()))


def _print_findings(findings: Iterable[Finding]) -> None:
    columns = terminal.width()
    for finding in findings:
        head = f"{_MARKS[finding.ok]:<4} {finding.subject:<{_WIDTH}} "
        print(terminal.beside(head, printable(finding.detail), columns))
        if finding.remedy:
            print(terminal.beside(f"{'':{len(head)}}-> ", finding.remedy, columns))
