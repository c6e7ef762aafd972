"""The command line: global options, the verb, and what belongs to the verb."""

from __future__ import annotations

import argparse
from collections import deque
from functools import partial
from importlib import import_module
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from tlsify import __version__
from tlsify.cli.messages import PROGRAM, fail, flush_stdout
from tlsify.errors import ConfigError, ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


# Verb -> what it does. The module of the same name is imported only when its verb is called.
VERBS = {
    "connect": "TLS client, on stdin and stdout or for a program",
    "accept": "TLS server for one connection that inetd or another program has accepted",
    "listen": "TLS server that runs a program for each connection",
    "agent": "private process that does handshakes for other processes and holds their keys",
    "ssl_client": "busybox's TLS helper, with verification",
    "serve": "HTTPS server for the files of a folder",
    "forward": "TLS in front of another server, which receives plaintext or descriptors",
    "wrap": "TLS for an unmodified server, which writes to its clients through the kernel",
    "config": "translate a configuration of stunnel, hitch or ghostunnel",
    "check": "report what this host can offload, and why the rest cannot be",
    "status": "list the connections that the kernel or tlsify protects, with their processes",
}
# The same, of what is about the command itself.
ABOUT = {
    "help": "describe the command, a verb, or the exit codes",
    "version": "print the versions of tlsify, Python, OpenSSL and kernel, and the carrier",
    "completion": "print the completion for bash, zsh or fish",
}
_KTLS, _KTLS_MODES = "--ktls", ("auto", "require", "off")
_LOG_LEVELS = ("debug", "info", "notice", "warning", "error")
CONFIG = "--config"
# How argparse begins the message; it is translated only where a program asks for it.
_MISSING = "the following arguments are required: "
# Options of the command itself, which may stand behind the verb, too; the second take a value.
_SWITCHES = ("-v", "--verbose", "--syslog", "--ktls-any-kernel")
_VALUED = ("--ktls-rekey", "--log-level", "--log-format", CONFIG)
# argparse makes a formatter for each option that is added; without a width it would ask shutil for
# the terminal's, whose import takes longer than all of them.
_of_any_width = partial(argparse.HelpFormatter, width=80)


class GlobalOptions(NamedTuple):
    """Options that stand for every verb.

    Attributes:
        ktls: "auto", "require" or "off".
        ktls_rekey: "auto" or "require".
        ktls_any_kernel: offload even on a kernel known to be bad.
        log_level: the lowest level of messages (`logs.messages.LEVELS`).
        log_format: "text" or "json", of messages and of the access log.
        syslog: write messages to syslog.
    """

    ktls: str = "auto"
    ktls_rekey: str = "auto"
    ktls_any_kernel: bool = False
    log_level: str = "notice"
    log_format: str = "text"
    syslog: bool = False


class Attached(argparse.Action):
    """An option whose value, if it has one, stands in the same word: the next is not it."""

    def __init__(self, *, const: str, **options: Any) -> None:
        """Take what the option means without a value."""
        super().__init__(nargs="?", const=const, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        del parser, option_string
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Reports misuse as every other error is reported."""

    _asking = False
    # What a verb finds wrong with words that are each right, and what it makes of them: see
    # `connect.misuse` and `connect.complete`.
    misuse: Callable[[argparse.Namespace], str | None] | None = None
    complete: Callable[[argparse.Namespace], None] | None = None
    # Whether options may stand between several operands.
    is_mixed = False

    def __init__(self, *, formatter_class: Any = argparse.HelpFormatter, **options: Any) -> None:
        super().__init__(formatter_class=_of_any_width, allow_abbrev=False, **options)
        self._positionals.title = "operands"
        self._help = formatter_class
        self._words: list[str] = []

    def format_help(self) -> str:
        """Write it as wide as the terminal is."""
        self.formatter_class = self._help
        text = super().format_help()
        for action in self._actions:
            if isinstance(action, Attached):
                (name,) = action.option_strings
                text = text.replace(f"{name} [", f"{name}[=")  # as it has to be written
        return text

    def read(self, words: list[str]) -> argparse.Namespace:
        """Parse, and see whether all of it goes together."""
        self._words = words = list(self.attached(words))
        parse = self.parse_known_intermixed_args if self.is_mixed else self.parse_known_args
        given, unknown = parse(words)
        if unknown:
            self._refuse(unknown, given)
        if self.misuse is not None and (message := self.misuse(given)) is not None:
            self.error(message)
        if self.complete is not None and not self._asking:
            self.complete(given)
        return given

    def attached(self, words: list[str]) -> Iterator[str]:
        """Write out the value of each option that has it in its own word, or stands without."""
        for at, word in enumerate(words):
            if word == "--":
                yield from words[at:]
                return
            action = self._option_string_actions.get(word)
            if not isinstance(action, Attached):
                yield word
                continue
            following = "".join(words[at + 1 : at + 2])
            if self._is_value(action, following):
                self.error(
                    f'"{following}" behind {word} is not its value, which stands in the same word',
                    f"write {word}={following}, or put {word} last",
                )
            yield f"{word}={action.const}"

    def _is_value(self, action: Attached, word: str) -> bool:
        """Return whether a word that stands behind a bare option may be meant as its value."""
        if not word or word.startswith("-"):
            return False
        try:
            self._check_value(action, self._get_value(action, word))
        except (argparse.ArgumentError, UsageError):
            return False
        return True

    def _refuse(self, words: list[str], given: argparse.Namespace) -> NoReturn:
        """End with what may be meant by the first word that is not known."""
        from tlsify.addresses import is_whole
        from tlsify.cli import suggestions

        takes_program = self.get_default("program") == []
        operands = [getattr(given, each.dest) for each in self._get_positional_actions()]
        if takes_program and operands and all(operands) and is_whole(operands[0]):
            at = self._words.index(words[0])
            words = [*(each for each in operands[1:] if each in self._words[:at]), *words]
        options = [] if takes_program else [each for each in words if each.startswith("-")]
        word = [*options, *words][0]
        page = f'see "{self.prog} --help"'
        if word.startswith("-"):
            name = word.partition("=")[0]
            known = [*self._option_string_actions, _KTLS, *_SWITCHES, *_VALUED]
            if self.prog == PROGRAM:
                page += "; options of a verb stand behind it"
            self.error(f"there is no option {name}", suggestions.hint(name, known, page))
        elif takes_program:
            page = f'put "--" in front of a program: -- {" ".join(words)}'
        self.error(f'"{word}" is one word too many', page)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Report a value that cannot be as what it is: a word that is wrong."""
        try:
            return super()._get_value(action, arg_string)
        except ConfigError as exc:
            message = str(argparse.ArgumentError(action, str(exc)))
            raise UsageError(message, hint=exc.hint) from exc

    def split(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Return the verb's words, and the program's, which are not for argparse.

        The program stands behind the first "--" with all that the verb needs in front of it. One
        further in front ends the options.
        """
        for at, word in enumerate(words):
            if word == "--" and self._accepts(words[:at]):
                return words[:at], words[at + 1 :]
        return words, []

    def _accepts(self, words: list[str]) -> bool:
        return self.refusal(words) is None

    def refusal(self, words: list[str]) -> str | None:
        """Return the error in words, of which nothing comes; None if there is none."""
        self._asking = True
        try:
            self.read(words)
        except (argparse.ArgumentError, UsageError) as exc:
            return str(exc)
        finally:
            self._asking = False
        return None

    def error(self, message: str, hint: str | None = None) -> NoReturn:
        """End with exit code 100."""
        if self._asking:
            raise argparse.ArgumentError(None, message)
        missing = message.removeprefix(_MISSING)
        if missing != message:
            message, hint = f"{missing} is missing", self._swallowed()
        fail(message, hint or f'see "{self.prog} --help"')
        raise SystemExit(ExitCode.USAGE)

    def _swallowed(self) -> str | None:
        """Return a hint if an option that may stand alone has taken a word that is missed."""
        for option, word in pairwise(self._words):
            action = self._option_string_actions.get(option)
            if action is not None and action.nargs == "?" and not word.startswith("-"):
                return (
                    f'"{word}" was taken for the {action.metavar} of {option}: '
                    f"write {option}={action.metavar}, or {option} last"
                )
        return None

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End after --help or --version, if they could be printed."""
        flush_stdout()
        super().exit(status, message)


def top_parser() -> _Parser:
    """Build what reads the words in front of a verb, and the verb."""
    verbs, about = (
        "\n".join(f"  {verb:<11} {text}" for verb, text in each.items()) for each in (VERBS, ABOUT)
    )
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} VERB [OPTION...]",
        description="TLS for programs that do not speak TLS.\n\n"
        f"verbs:\n{verbs}\n\n{about}\n\n"
        '"tlsify help VERB" describes a verb, "tlsify help pages" lists the manual.',
        epilog="These options may also stand after the verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        _KTLS,
        nargs="?",
        choices=_KTLS_MODES,
        default=_KTLS_MODES[0],
        help="kernel TLS: auto (default, and what a bare --ktls means) uses it where the kernel "
        "can and relays in userspace elsewhere, require fails without it, off always relays",
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
    parser.add_argument(
        "--log-level",
        choices=_LOG_LEVELS,
        default="notice",
        help="lowest level of messages; default notice, which includes refused clients",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="format of messages and of --access-log; default text",
    )
    parser.add_argument(
        "--syslog", action="store_true", help="write messages to syslog instead of stderr"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_const",
        const="debug",
        dest="log_level",
        help="the same as --log-level=debug",
    )
    parser.add_argument("verb", nargs="?", metavar="VERB", help=argparse.SUPPRESS)
    return parser


def is_config(word: str) -> bool:
    """Return whether a word stands for a file with others."""
    return word == CONFIG or word.startswith(f"{CONFIG}=")


def divide(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the command's own words, the verb last, and what belongs to the verb.

    The command's options are its own wherever they stand, up to "--". The value of --ktls is
    optional, which argparse would read as "the next word, whatever it is": so it is read here.
    """
    ours: list[str] = []
    verb: list[str] = []
    rest: list[str] = []
    words = deque(arguments)
    while words:
        word = words.popleft()
        if word == "--" and verb:
            rest += [word, *words]
            break
        if word == "--":
            verb, rest = [word, *islice(words, 1)], [*islice(words, 1, None)]
            break
        name, equals, _ = word.partition("=")
        if word == _KTLS:
            is_mode = bool(words) and words[0] in _KTLS_MODES
            ours.append(f"{word}={words.popleft() if is_mode else _KTLS_MODES[0]}")
        elif name in _VALUED and not _is_of_verb(name, verb):
            ours.append(word if equals else f"{word}={words.popleft() if words else ''}")
        elif word in _SWITCHES or name == _KTLS or (word.startswith("-") and not verb):
            ours.append(word)
        elif verb:
            rest.append(word)
        else:
            verb = [word]
    return ours + verb, rest


def _is_of_verb(option: str, verb: list[str]) -> bool:
    """Return whether an option is the verb's although the command has one of the same name."""
    return option == CONFIG and verb == ["check"]


def verb_parser(verb: str) -> _Parser:
    """Build what reads the words behind a verb."""
    module = import_module(f"tlsify.cli.{verb}")
    parser = _Parser(prog=f"{PROGRAM} {verb}", description=module.DESCRIPTION)
    module.add_arguments(parser)
    parser.misuse = getattr(module, "misuse", None)
    parser.complete = getattr(module, "complete", None)
    parser.is_mixed = getattr(module, "IS_MIXED", False)
    return parser


def read_options(words: list[str]) -> tuple[str, GlobalOptions]:
    """Read what stands in front of a verb, and the verb; ends the process if that cannot be."""
    if not words:
        return "help", GlobalOptions()
    if len(words) == 1 and words[0] in VERBS:  # as mostly, and making a parser takes its time
        return words[0], GlobalOptions()
    top = top_parser()
    parsed = top.read(words)
    if parsed.verb not in {*VERBS, *ABOUT}:
        _refuse_verb(top, parsed.verb)
    options = GlobalOptions(
        ktls=parsed.ktls,
        ktls_rekey=parsed.ktls_rekey,
        ktls_any_kernel=parsed.ktls_any_kernel,
        log_level=parsed.log_level,
        log_format=parsed.log_format,
        syslog=parsed.syslog,
    )
    return parsed.verb, options


def _refuse_verb(top: _Parser, verb: str | None) -> NoReturn:
    from tlsify.cli import suggestions

    page = f'see "{PROGRAM} help"'
    if verb is None:
        top.error("a verb is required", page)
    top.error(f'there is no verb "{verb}"', suggestions.hint(verb, (*VERBS, *ABOUT), page))


def read_words(verb: str, rest: list[str]) -> argparse.Namespace:
    """Read what stands behind a verb; ends the process if that cannot be."""
    parser = verb_parser(verb)
    words, program = parser.split(rest) if parser.get_default("program") == [] else (rest, [])
    given = parser.read(words)
    given.program = program
    return given
