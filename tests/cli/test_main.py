"""Tests of the command as such: global options, verbs, misuse, exit codes, streams."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import COMMAND, ENVIRONMENT, LOOPBACK, PATIENCE, finish, run, start
from tlsify import __version__
from tlsify.cli import VERBS, divide, main
from tlsify.cli.program import streams
from tlsify.errors import ExitCode, TlsifyError

if TYPE_CHECKING:
    from collections.abc import Sequence

# -- words

_PLACES = {
    "before-the-verb": ["--ktls", "connect", "h", "1"],
    "behind-the-verb": ["connect", "--ktls", "h", "1"],
    "between-operands": ["connect", "h", "--ktls", "1"],
    "at-the-end": ["connect", "h", "1", "--ktls"],
}


@pytest.mark.parametrize("words", _PLACES.values(), ids=_PLACES)
def test_bare_ktls_swallows_nothing(words: list[str]) -> None:
    """A bare --ktls means auto wherever it stands, and the next word stays what it was."""
    assert divide(words) == (["--ktls=auto", "connect"], ["h", "1"])


@pytest.mark.parametrize(
    ("words", "ours", "rest"),
    [
        ([], [], []),
        (["check"], ["check"], []),
        (["check", "--ktls=require"], ["--ktls=require", "check"], []),
        (["--ktls", "require", "check"], ["--ktls=auto", "require"], ["check"]),
        (["-v", "--ktls-rekey", "require", "check"], None, []),
        (["check", "-v", "--ktls-rekey", "require"], ["--ktls-rekey=require", "check"], ["-v"]),
        (["check", "--ktls-rekey"], ["--ktls-rekey=", "check"], []),
        (["check", "--ktls-any-kernel", "x"], ["--ktls-any-kernel", "check"], ["x"]),
        (["serve", "--", "--ktls"], ["serve"], ["--", "--ktls"]),
        (["--ktls", "--", "serve", "--", "--ktls"], None, ["--", "--ktls"]),
        (["--"], ["--"], []),
    ],
)
def test_division_of_words(words: list[str], ours: list[str] | None, rest: list[str]) -> None:
    """--ktls options are the command's up to "--"; all else behind the verb is the verb's."""
    expected = {
        "-v": ["-v", "--ktls-rekey=require", "check"],
        "--ktls": ["--ktls=auto", "--", "serve"],
    }
    assert divide(words) == (expected[words[0]] if ours is None else ours, rest)


@pytest.mark.parametrize("words", _PLACES.values(), ids=_PLACES)
def test_bare_ktls_in_the_real_command(words: Sequence[str]) -> None:
    """Host and port survive a bare --ktls in each place."""
    real = [{"h": "nobody.invalid"}.get(word, word) for word in words]
    run(*real).failed(102, "cannot connect to nobody.invalid port 1")


@pytest.mark.parametrize(
    "words",
    [
        ["connect", "--", "--ktls", "1"],
        ["--", "connect", "--", "--ktls", "1"],
        ["connect", "--timeout=5", "--", "--ktls", "1"],
    ],
)
def test_words_behind_two_dashes(words: list[str]) -> None:
    """Behind "--" nothing is an option, not even --ktls."""
    run(*words).failed(102, "cannot connect to --ktls port 1")


# -- help and misuse


def test_version() -> None:
    """--version prints one line."""
    assert run("--version").succeeded() == f"tlsify {__version__}\n".encode()


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb: str) -> None:
    """--help describes the command, with every verb, and each verb, with its options."""
    text = run(*filter(None, [verb]), "--help").succeeded().decode()
    assert text.startswith(f"usage: tlsify {verb}".rstrip())
    if not verb:
        assert all(f"  {name}" in text and summary in text for name, summary in VERBS.items())
        assert "--ktls" in text


_MISUSE = {
    "no-verb": ([], "VERB", "tlsify --help"),
    "no-verb-but-options": (["--ktls", "-v"], "VERB", "tlsify --help"),
    "unknown-verb": (["conect"], "'conect'", "tlsify --help"),
    "value-behind-bare-ktls": (["--ktls", "auto", "check"], "'auto'", "tlsify --help"),
    "unknown-option": (["--nonsense", "check"], "--nonsense", "tlsify --help"),
    "unknown-option-of-a-verb": (["check", "--nonsense"], "--nonsense", "tlsify check --help"),
    "abbreviated-option": (["check", "--js"], "--js", "tlsify check --help"),
    "abbreviated-global": (["--verb", "check"], "--verb", "tlsify --help"),
    "ktls-mode": (["--ktls=sometimes", "check"], "'sometimes'", "tlsify --help"),
    "ktls-mode-empty": (["check", "--ktls="], "--ktls", "tlsify --help"),
    "ktls-rekey-alone": (["check", "--ktls-rekey"], "--ktls-rekey", "tlsify --help"),
    "missing-port": (["connect", "h"], "PORT", "tlsify connect --help"),
    "port-is-a-word": (["connect", "h", "https"], "'https'", "tlsify connect --help"),
    "port-too-large": (["connect", "h", "65536"], "'65536'", "tlsify connect --help"),
    "timeout-zero": (["connect", "--timeout", "0", "h", "1"], "'0'", "tlsify connect --help"),
    "timeout-vast": (["connect", "--timeout", "1e300", "h", "1"], "1e300", "connect --help"),
    "timeout-nan": (["serve", "--timeout", "nan", "/"], "'nan'", "tlsify serve --help"),
    "no-workers": (["serve", "--workers", "0", "/"], "'0'", "tlsify serve --help"),
    "missing-folder": (["serve"], "DIR", "tlsify serve --help"),
    "one-word-too-many": (["serve", "/", "/"], "unrecognized", "tlsify"),
}


@pytest.mark.parametrize(("words", "word", "page"), _MISUSE.values(), ids=_MISUSE)
def test_misuse(words: list[str], word: str, page: str) -> None:
    """Misuse gives 100, names the word, and points to the help that applies."""
    run(*words).failed(100, word, page)


# -- streams


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["check"], ["check", "--json"], ["status", "--watch"]]
)
def test_disk_full(words: list[str]) -> None:
    """Output that cannot be written gives 111, once."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        run(*words, stdout=full).failed(111, "stdout: ENOSPC", "space")


@pytest.mark.parametrize("words", [["--version"], ["check"], ["connect", "--help"]])
def test_reader_gone(words: list[str]) -> None:
    """Where nobody reads what is printed the command ends as others do, by SIGPIPE, in silence."""
    process = start(*words, stdin=None)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert finish(process) == (128 + signal.SIGPIPE, b"", "")


def test_stdout_closed() -> None:
    """What was asked for cannot be told: that is no success."""
    words = (*COMMAND, "--version")
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        env=ENVIRONMENT,
        check=False,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        text=True,
    )
    assert done.returncode == 111
    assert done.stderr.startswith("tlsify: error: stdout: EBADF")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_stream_that_does_not_wait(name: str) -> None:
    """A parent may have set O_NONBLOCK: what is printed waits for room, and is whole."""
    words = ("connect", "--help") if name == "stdout" else ("connect", "--fd", "x" * 5000)
    expected = run(*words)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(writer, bytes(2**12))
    process = start(*words, **{name: writer})
    os.close(writer)
    received = b""
    while more := streams.read(reader, 2**12):
        received += more
    os.close(reader)
    assert finish(process).status == expected.status
    assert received[filled:] == (expected.out if name == "stdout" else expected.err.encode())


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&- >&-"])
def test_unusable_stderr(redirection: str) -> None:
    """Without a usable stderr the exit status still tells, and stdout stays clean."""
    words = (*COMMAND, "connect", LOOPBACK, "0")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *words],
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (102, b"", b"")


# -- what a verb may end with


@pytest.mark.parametrize(
    ("error", "status", "error_line", "with_traceback"),
    [
        pytest.param(
            RuntimeError("x"), ExitCode.BUG, "unexpected exception", True, id="foreign-bug"
        ),
        pytest.param(TlsifyError("own bug"), ExitCode.BUG, "own bug", True, id="own-bug"),
        pytest.param(OSError(24, "Too many"), ExitCode.SYSTEM, "EMFILE: Too many", False, id="os"),
        pytest.param(OSError("odd"), ExitCode.SYSTEM, "errno 0: odd", False, id="os-without-errno"),
        pytest.param(KeyboardInterrupt(), 130, None, False, id="interrupt"),
    ],
)
def test_exception_in_a_verb(  # noqa: PLR0913, PLR0917 - a row of the table, and two fixtures
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    error_line: str | None,
    with_traceback: bool,  # noqa: FBT001
) -> None:
    """Whatever a verb raises becomes an exit code and two lines; only bugs show a traceback."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("tlsify.cli._protect_process", lambda: None)
    monkeypatch.setattr("tlsify.cli.check.run", fail)
    assert main(["check"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("Traceback" in printed.err) is with_traceback
    lines = [line for line in printed.err.splitlines() if line.startswith("tlsify: ")]
    if error_line is None:
        assert printed.err == ""
    else:
        assert lines[0] == f"tlsify: error: {error_line}"
        assert lines[1].startswith("tlsify: hint: ")
        assert len(lines) == 2
