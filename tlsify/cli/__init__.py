"""The command: global options, verbs, messages, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from tlsify import __version__
from tlsify.errors import ExitCode, TlsifyError, errno_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Verb -> what it does. The module of the same name is imported only when its verb is called.
VERBS = {
    "connect": "TLS client on stdin and stdout",
    "serve": "HTTPS server for the files of a folder",
    "check": "say what this host can offload, and why not what it cannot",
}
_KTLS_MODES = ("auto", "require", "off")
_PROGRAM = "tlsify"


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """Options that stand for every verb.

    Attributes:
        ktls: "auto", "require" or "off".
        ktls_rekey: "auto" or "require".
        ktls_any_kernel: offload even on a kernel known to be bad.
        verbose: say on stderr what is going on.
    """

    ktls: str = "off"
    ktls_rekey: str = "auto"
    ktls_any_kernel: bool = False
    verbose: bool = False


class _Parser(argparse.ArgumentParser):
    """Reports misuse as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 100."""
        fail(message, f'see "{self.prog} --help"')
        raise SystemExit(ExitCode.USAGE)


def fail(message: str, hint: str) -> None:
    """Print the error line and the hint line."""
    print(f"{_PROGRAM}: error: {message}", file=sys.stderr)
    print(f"{_PROGRAM}: hint: {hint}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:<9} {text}" for verb, text in VERBS.items())
    parser = _Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} [--ktls[=MODE]] VERB [OPTION...]",
        description="TLS for programs that do not speak TLS.",
        epilog=f"verbs:\n{verbs}\n\n{_PROGRAM} VERB --help describes one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    parser.add_argument(
        "--ktls",
        choices=_KTLS_MODES,
        default="off",
        help="let the kernel protect the records: if it can (auto, which --ktls alone means), "
        "or not connect at all (require); off, the default, relays",
    )
    parser.add_argument(
        "--ktls-rekey",
        choices=("auto", "require"),
        default="auto",
        help="require: do not offload TLS 1.3 where the kernel cannot follow a KeyUpdate",
    )
    parser.add_argument(
        "--ktls-any-kernel",
        action="store_true",
        help="offload even on a kernel with a known kTLS vulnerability",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is going on")
    parser.add_argument("verb", choices=tuple(VERBS), metavar="VERB", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _spell_out(arguments: Sequence[str]) -> list[str]:
    """Move --ktls options in front of the verb, and give a bare --ktls its value.

    Left to argparse, an optional value would swallow the next word.
    """
    ours: list[str] = []
    rest: list[str] = []
    for position, word in enumerate(arguments):
        if word == "--":
            rest += arguments[position:]
            break
        if word == "--ktls":
            ours.append("--ktls=auto")
        elif word.startswith(("--ktls=", "--ktls-")):
            ours.append(word)
        else:
            rest.append(word)
    return ours + rest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit status (`errors.ExitCode`)."""
    _protect_process()
    words = _spell_out(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(words)
    options = GlobalOptions(
        ktls=parsed.ktls,
        ktls_rekey=parsed.ktls_rekey,
        ktls_any_kernel=parsed.ktls_any_kernel,
        verbose=parsed.verbose,
    )
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format=f"{_PROGRAM}: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    verb = import_module(f"tlsify.cli.{parsed.verb}")
    parser = _Parser(
        prog=f"{_PROGRAM} {parsed.verb}", description=verb.DESCRIPTION, allow_abbrev=False
    )
    verb.add_arguments(parser)
    return _run(verb.run, parser.parse_args(parsed.rest), options)


def _run(
    verb: Callable[[argparse.Namespace, GlobalOptions], int],
    arguments: argparse.Namespace,
    options: GlobalOptions,
) -> int:
    try:
        return verb(arguments, options)
    except TlsifyError as exc:
        if exc.exit_code is ExitCode.BUG:
            traceback.print_exc()
        fail(str(exc), exc.hint)
        return exc.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        fail("write: EPIPE: the reader of our output is gone", "keep it open until the end")
        _discard_stdout()
        return ExitCode.SYSTEM
    except OSError as exc:
        number = exc.errno or 0
        fail(f"{errno_name(number)}: {exc}", os.strerror(number) if number else "see above")
        return ExitCode.SYSTEM
    except Exception:  # noqa: BLE001 - the one place where a bug ends
        traceback.print_exc()
        fail("unexpected exception", TlsifyError.general_hint)
        return ExitCode.BUG


def _discard_stdout() -> None:
    """Keep the interpreter from complaining once more when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _protect_process() -> None:
    """Keep secrets out of core dumps."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
