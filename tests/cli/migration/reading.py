"""What tlsify makes of a translation: it has to be a command line without a mistake."""

from __future__ import annotations

import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tlsify.cli.options import config_file
from tlsify.cli.parser import verb_parser

if TYPE_CHECKING:
    from tlsify.cli.migration.draft import Draft


def read_back(draft: Draft) -> dict[str, object]:
    """Read a file as ``tlsify --config FILE`` does, and return what is in it."""
    text = draft.write()
    with TemporaryDirectory() as folder:
        path = Path(folder, "it.toml")
        path.write_text(text)
        words = config_file.read(path)
    verb_parser(words.verb).read([*words.options, *words.operands])
    return tomllib.loads(text)
