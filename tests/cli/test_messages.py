"""Tests of messages: exit codes, and the two lines."""

from __future__ import annotations

import pytest

from tlsify.cli import main
from tlsify.errors import ExitCode, TlsifyError


@pytest.mark.parametrize(
    ("error", "status", "error_line", "with_traceback"),
    [
        pytest.param(
            RuntimeError("x"), ExitCode.BUG, "unexpected exception", True, id="foreign-bug"
        ),
        pytest.param(TlsifyError("own bug"), ExitCode.BUG, "own bug", True, id="own-bug"),
        pytest.param(OSError(24, "Too many"), ExitCode.SYSTEM, "EMFILE: Too many", False, id="os"),
        pytest.param(OSError("odd"), ExitCode.SYSTEM, "errno 0: odd", False, id="os-without-errno"),
        pytest.param(
            ModuleNotFoundError("x", name="psutil"),
            ExitCode.CONFIG,
            "the package psutil is not installed",
            False,
            id="package",
        ),
        pytest.param(
            ModuleNotFoundError("x", name="tlsify.x"),
            ExitCode.BUG,
            "unexpected exception",
            True,
            id="module",
        ),
        pytest.param(KeyboardInterrupt(), 130, None, False, id="interrupt"),
    ],
)
def test_exception_in_a_verb(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    error_line: str | None,
    with_traceback: bool,
) -> None:
    """Whatever a verb raises becomes an exit code and two lines; only bugs show a traceback."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("tlsify.cli.command._protect_process", lambda: None)
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
