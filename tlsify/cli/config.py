"""tlsify config: translate another program's configuration into a file for --config."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.cli import parser as parsers
from tlsify.cli.migration import ghostunnel, hitch, stunnel
from tlsify.cli.migration.draft import Setting, Weight
from tlsify.cli.options import config_file
from tlsify.credentials.reading import CONFIGURATION, read_file
from tlsify.errors import ConfigError, ExitCode, UsageError, said
from tlsify.system.modes import make_private, write_public

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tlsify.cli.migration.draft import Draft
    from tlsify.cli.parser import GlobalOptions

DESCRIPTION = (
    "Translate the configuration of stunnel or hitch, or a command line of ghostunnel, into "
    "configuration files for tlsify, and say of each line what is not carried over."
)
IS_MIXED = True
_FILES = {"stunnel": stunnel.translate, "hitch": hitch.translate}
_WORDS = "ghostunnel"
# Only hitch has these at the beginning of a line, and only stunnel has sections.
_SECTION = re.compile(r"^\s*\[.*\]\s*$", re.MULTILINE)
_FRONTEND = re.compile(r"^\s*(frontend|pem-file|pem-dir)\s*=", re.MULTILINE)
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own options."""
    parser.add_argument("action", choices=["import"], metavar="import", help="translate")
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="configuration of stunnel or hitch"
    )
    parser.add_argument(
        "--from",
        dest="origin",
        choices=[*_FILES, _WORDS],
        help="program that FILE belongs to; default: detected from its contents",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder to write NAME.toml to, for each service; made if it is missing; default: "
        "stdout, for one service",
    )
    parser.add_argument(
        "--lossy",
        action="store_true",
        help="write files even if settings that matter to security are not carried over",
    )
    parser.usage = f"{parser.prog} import [OPTION...] FILE|--from ghostunnel -- FLAG..."
    parser.set_defaults(program=[])


def misuse(arguments: argparse.Namespace) -> str | None:
    """Return the error in the arguments that say what to translate."""
    if arguments.file is None and arguments.origin != _WORDS:
        return "FILE is required, or --from ghostunnel and its flags behind --"
    if arguments.file is not None and arguments.origin == _WORDS:
        return "ghostunnel has flags, and no file: put them behind --"
    return None


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Translate, report, and write."""
    del options
    drafts = _translate(arguments)
    for draft in drafts:
        _try(draft)
    remarks = dict.fromkeys(remark for draft in drafts for remark in draft.remarks)
    for remark in sorted(remarks, key=lambda remark: remark.setting.number):
        print(remark, file=sys.stderr)
    unsafe = sum(remark.weight is Weight.SECURITY for remark in remarks)
    if unsafe and not arguments.lossy:
        raise ConfigError(
            f"{unsafe} setting(s) that matter to security cannot be carried over: "
            "nothing is written",
            hint='change the lines marked "security" above, or do without them by --lossy',
        )
    if arguments.output is not None:
        _write(drafts, arguments.output)
    elif len(drafts) == 1:
        print(drafts[0].write(), end="")
    else:
        names = ", ".join(draft.name for draft in drafts)
        raise UsageError(f"there are several services: {names}", hint="add --output DIR")
    return ExitCode.OK


def _translate(arguments: argparse.Namespace) -> list[Draft]:
    if arguments.origin == _WORDS:
        return ghostunnel.translate(arguments.program)
    try:
        text = read_file(arguments.file, CONFIGURATION).decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{arguments.file} is no text: {exc}", hint="write it in UTF-8") from exc
    origin = arguments.origin
    if origin is None:
        is_hitch = _FRONTEND.search(text) is not None and _SECTION.search(text) is None
        origin = "hitch" if is_hitch else "stunnel"
    return _FILES[origin](text, arguments.file.name)


def _try(draft: Draft) -> None:
    """Remark on what tlsify itself would not accept of a file, such as a user unknown here."""
    try:
        words = config_file.parse(draft.write().encode(), draft.name)
        why = parsers.verb_parser(words.verb).refusal([*words.options, *words.operands])
    except ConfigError as exc:
        why = str(exc).removeprefix(f"{draft.name}: ")
    if why is not None:
        draft.lose(Setting(f"{draft.verb} refuses the file", "", draft.name), why)


def _write(drafts: Sequence[Draft], folder: Path) -> None:
    """Write all of them, or none where one of the files is there already."""
    try:
        make_private(folder)
    except OSError as exc:
        raise ConfigError(
            f"cannot make {folder}: {said(exc)}", hint="name a folder that can be made"
        ) from exc
    paths = [folder / f"{name}.toml" for name in _names(drafts)]
    for path in paths:
        if os.path.lexists(path):
            raise ConfigError(f"{path} is there already", hint="name another folder for --output")
    with contextlib.ExitStack() as undone:
        for path, draft in zip(paths, drafts, strict=True):
            undone.callback(_remove, path)
            try:
                write_public(path, draft.write().encode())
            except OSError as exc:
                raise ConfigError(
                    f"cannot write {path}: {said(exc)}", hint="name an existing, writable folder"
                ) from exc
        undone.pop_all()
    print(*paths, sep="\n")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _names(drafts: Sequence[Draft]) -> list[str]:
    """Return a name for each file; of services with the same one, all but the first get numbers."""
    found: list[str] = []
    for draft in drafts:
        name = stem = _UNUSUAL.sub("_", draft.name) or "service"
        number = 1
        while name in found:
            number += 1
            name = f"{stem}.{number}"
        found.append(name)
    return found
