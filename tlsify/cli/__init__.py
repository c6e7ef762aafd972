"""The command: global options, verbs, messages, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import signal
import sys
from functools import partial
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tlsify import __version__
from tlsify.cli import lazy_modules
from tlsify.cli.program import streams
from tlsify.errors import ExitCode, TlsifyError, errno_name
from tlsify.system.process import protect_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Verb -> what it does. The module of the same name is imported only when its verb is called.
VERBS = {
    "connect": "TLS client, on stdin and stdout or for a program",
    "accept": "TLS server for one connection that inetd or another program has accepted",
    "listen": "TLS server that runs a program for each connection",
    "agent": "private process that does handshakes for other processes and holds their keys",
    "ssl_client": "busybox's TLS helper, with verification",
    "serve": "HTTPS server for the files of a folder",
    "forward": "TLS in front of another server, which receives plaintext or descriptors",
    "check": "report what this host can offload, and why the rest cannot be",
    "status": "list the connections that the kernel or tlsify protects, with their processes",
}
_PROGRAMS = ("ssl_client",)
_KTLS_MODES = ("auto", "require", "off")
_PROGRAM = "tlsify"
CONFIG = "--config"
# How many new objects it takes to look for garbage. Importing makes tens of thousands, and none of
# it: with Python's 700 a fifth of the start goes into looking.
_OBJECTS = 50_000
_GENERAL_HINT = "errno(3) explains the name"
_HINTS = {
    errno.EBADF: "leave stdin, stdout and stderr open",
    errno.EIO: "see whether the terminal or the disk behind it is still there",
    errno.EISDIR: "name a file, a pipe or a terminal",
    errno.EMFILE: 'raise the limit with "ulimit -n"',
    errno.ENOSPC: "free some space where the output goes",
}


class GlobalOptions(NamedTuple):
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


class Ended(BaseException):
    """Somebody has ended us by a signal that leaves time to end a connection in good order."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# argparse makes a formatter for each option that is added; without a width it would ask shutil for
# the terminal's, whose import takes longer than all of them.
_of_any_width = partial(argparse.HelpFormatter, width=80)


class _Parser(argparse.ArgumentParser):
    """Reports misuse as every other error is reported."""

    _asking = False
    # What a verb finds wrong with words that are each right; see `connect.misuse`.
    misuse: Callable[[argparse.Namespace], str | None] | None = None
    # Whether options may stand between several operands.
    is_mixed = False

    def __init__(self, *, formatter_class: Any = argparse.HelpFormatter, **options: Any) -> None:
        super().__init__(formatter_class=_of_any_width, allow_abbrev=False, **options)
        self._help = formatter_class

    def format_help(self) -> str:
        """Write it as wide as the terminal is."""
        self.formatter_class = self._help
        return super().format_help()

    def read(self, words: list[str]) -> argparse.Namespace:
        """Parse, and see whether all of it goes together."""
        given = self.parse_intermixed_args(words) if self.is_mixed else self.parse_args(words)
        if self.misuse is not None and (message := self.misuse(given)) is not None:
            self.error(message)
        return given

    def split(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Give the verb's words, and the program's, which are not for argparse.

        The program stands behind the first "--" with all that the verb needs in front of it. One
        further in front ends the options.
        """
        for at, word in enumerate(words):
            if word == "--" and self._accepts(words[:at]):
                return words[:at], words[at + 1 :]
        return words, []

    def _accepts(self, words: list[str]) -> bool:
        self._asking = True
        try:
            self.read(words)
        except argparse.ArgumentError:
            return False
        finally:
            self._asking = False
        return True

    def error(self, message: str) -> NoReturn:
        """End with exit code 100."""
        if self._asking:
            raise argparse.ArgumentError(None, message)
        fail(message, f'see "{self.prog} --help"')
        raise SystemExit(ExitCode.USAGE)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End after --help or --version, if they could be printed."""
        flush_stdout()
        super().exit(status, message)


def fail(message: str, hint: str) -> None:
    """Print the error line and the hint line; what a peer put into them stays one line of text."""
    for kind, text in (("error", message), ("hint", hint)):
        print(f"{_PROGRAM}: {kind}: {printable(text)}", file=sys.stderr)


def printable(text: str) -> str:
    """Escape what would do more to a terminal than show a character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def top_parser() -> _Parser:
    """Build what reads the words in front of a verb, and the verb."""
    verbs = "\n".join(f"  {verb:<10} {text}" for verb, text in VERBS.items())
    parser = _Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} [--ktls[=MODE]] VERB [OPTION...]",
        description="TLS for programs that do not speak TLS.",
        epilog=f"verbs:\n{verbs}\n\n{_PROGRAM} VERB --help describes a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    parser.add_argument(
        "--ktls",
        choices=_KTLS_MODES,
        default="off",
        help="kernel TLS: auto (what a bare --ktls means) uses it where possible, require "
        "fails without it, off (default) relays in userspace",
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
    parser.add_argument(
        "--config", metavar="FILE", help="read verb, options and operands from a TOML file"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    parser.add_argument("verb", choices=tuple(VERBS), metavar="VERB", help=argparse.SUPPRESS)
    return parser


def is_config(word: str) -> bool:
    """Tell whether a word stands for a file with others."""
    return word == CONFIG or word.startswith(f"{CONFIG}=")


def divide(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Give the command's own words, the verb last, and what belongs to the verb.

    --ktls options are the command's wherever they stand, and a bare --ktls gets its value here:
    left to argparse, an optional value would swallow the next word.
    """
    ours: list[str] = []
    verb: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--" and verb:
            rest += [word, *words]
        elif word == "--":
            verb, rest = [word, *islice(words, 1)], [*words]
        elif word == "--ktls":
            ours.append("--ktls=auto")
        elif word == "--ktls-rekey":
            ours.append(f"{word}={next(words, '')}")
        elif word.startswith(("--ktls=", "--ktls-")) or (is_config(word) and not verb):
            ours.append(word if word != CONFIG else f"{word}={next(words, '')}")
        elif verb:
            rest.append(word)
        elif word.startswith("-"):
            ours.append(word)
        else:
            verb = [word]
    return ours + verb, rest


def verb_parser(verb: str) -> _Parser:
    """Build what reads the words behind a verb."""
    module = import_module(f"tlsify.cli.{verb}")
    parser = _Parser(prog=f"{_PROGRAM} {verb}", description=module.DESCRIPTION)
    module.add_arguments(parser)
    parser.misuse = getattr(module, "misuse", None)
    parser.is_mixed = getattr(module, "IS_MIXED", False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit status (`errors.ExitCode`)."""
    gc.set_threshold(_OBJECTS)

    def work() -> int:
        _protect_process()
        status = _dispatch(_words() if arguments is None else arguments)
        flush_stdout()
        return status

    status = guarded(work)
    with contextlib.suppress(OSError):  # of what an error has left there
        flush_stdout()
    return status


def _words() -> list[str]:
    """Give the command line; under the name of a verb that others run as a program, with it."""
    name = os.path.basename(sys.argv[0])  # noqa: PTH119 - pathlib comes at a price
    return [name, *sys.argv[1:]] if name in _PROGRAMS else sys.argv[1:]


def guarded(work: Callable[[], int], prefix: str = "") -> int:
    """Do something, and report what goes wrong with it as the command does.

    Args:
        work: gives an exit status.
        prefix: of the error line, where there are several it could be about.
    """
    try:
        return work()
    except TlsifyError as exc:
        if exc.exit_code is ExitCode.BUG:
            _print_traceback()
        fail(f"{prefix}{exc}", exc.hint)
        return exc.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Ended as exc:
        return 128 + exc.number
    except OSError as exc:
        return _report_os_error(exc, prefix)
    except Exception:  # noqa: BLE001 - the one place where a bug ends
        _print_traceback()
        fail(f"{prefix}unexpected exception", TlsifyError.general_hint)
        return ExitCode.BUG


def _report_os_error(exc: OSError, prefix: str) -> int:
    number = exc.errno or 0
    if number == errno.EPIPE and exc.filename == "stdout":
        # Whoever read it has enough, as head(1) has: SIGPIPE would have ended us.
        return 128 + signal.SIGPIPE
    where = f"{exc.filename}: " if exc.filename else ""
    fail(
        f"{prefix}{where}{errno_name(number)}: {exc.strerror or exc}",
        _HINTS.get(number, _GENERAL_HINT),
    )
    return ExitCode.SYSTEM


def _print_traceback() -> None:
    import traceback  # noqa: PLC0415 - only bugs need it

    traceback.print_exc()


def _dispatch(arguments: Sequence[str]) -> int:
    ours, rest = divide(arguments)
    if any(map(is_config, ours)):
        from tlsify.cli.options import config_file  # noqa: PLC0415 - few need it

        ours, rest = divide(config_file.expand(arguments))
    verb, options = read_options(ours)
    for name in lazy_modules.MODULES:
        lazy_modules.load_late(name)
    import logging  # noqa: PLC0415 - only now without what it does not need

    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format=f"{_PROGRAM}: %(message)s",
    )
    for library in ("asyncio", "pyroute2"):  # what they find odd is not the user's business
        logging.getLogger(library).setLevel(logging.ERROR)
    given = read_words(verb, rest)
    run: Callable[[argparse.Namespace, GlobalOptions], int]
    run = import_module(f"tlsify.cli.{verb}").run
    return run(given, options)


def read_options(words: list[str]) -> tuple[str, GlobalOptions]:
    """Read what stands in front of a verb, and the verb; ends the process if that cannot be."""
    if len(words) == 1 and words[0] in VERBS:  # as mostly, and making a parser takes its time
        return words[0], GlobalOptions()
    parsed = top_parser().parse_args(words)
    options = GlobalOptions(
        ktls=parsed.ktls,
        ktls_rekey=parsed.ktls_rekey,
        ktls_any_kernel=parsed.ktls_any_kernel,
        verbose=parsed.verbose,
    )
    return parsed.verb, options


def read_words(verb: str, rest: list[str]) -> argparse.Namespace:
    """Read what stands behind a verb; ends the process if that cannot be."""
    parser = verb_parser(verb)
    words, program = parser.split(rest) if parser.get_default("program") == [] else (rest, [])
    given = parser.read(words)
    given.program = program
    return given


def flush_stdout() -> None:
    """Print what is still buffered, while a failure can still be reported.

    Raises:
        OSError: it cannot be printed; its ``filename`` is "stdout".
    """
    if sys.stdout:
        sys.stdout.flush()


def _protect_process() -> None:
    """Keep secrets out of core dumps, and connections out of the places of closed streams."""
    protect_process()
    # A socket with number 1 would get in plain what is meant for stdout. Reading a closed stdin
    # gives its end; writing a closed stdout fails, as it should.
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    streams.prepare()
