"""tlsify completion: print the completion for a shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from tlsify.cli.parser import GlobalOptions

DESCRIPTION = "Print the completion for a shell."
_FILES = {"bash": "tlsify.bash", "zsh": "_tlsify", "fish": "tlsify.fish"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the shell."""
    parser.add_argument("shell", choices=tuple(_FILES), help="bash, zsh or fish")
    parser.epilog = (
        'bash: eval "$(tlsify completion bash)" in ~/.bashrc. '
        "zsh: tlsify completion zsh >_tlsify in a folder of $fpath. "
        "fish: tlsify completion fish | source in ~/.config/fish/config.fish."
    )


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print the script that scripts/cli_docs has made of the parsers."""
    del options
    path = Path(__file__).with_name("completions") / _FILES[arguments.shell]
    print(path.read_text(encoding="utf-8"), end="")
    return ExitCode.OK
