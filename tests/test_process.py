"""Tests of process."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tlsify import process
from tlsify.process import protect_process

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATTERN = Path("/proc/sys/kernel/core_pattern")
_SECRET = b"planted-" + b"secret" * 4
# Each makes the secret only in memory: what is in argv may be found in anybody's core.
_PLANT = "secret = bytes(b ^ 1 for b in bytes.fromhex(sys.argv[1]))"
_PROGRAMS = {
    "unprotected": "os.abort()",
    "protected": "protect_process(); os.abort()",
    "forked": "protect_process(); os.fork() or os.abort(); os.wait()",
    "command": """
import contextlib, tlsify.cli
with contextlib.suppress(SystemExit):
    tlsify.cli.main(["--version"])
os.abort()
""",
    "executed": 'protect_process(); os.execlp("sh", "sh", "-c", "kill -ABRT $$")',
}


@pytest.fixture
def cores(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this kernel leaves its core dumps."""
    before = _PATTERN.read_text("ascii")
    tmp_path.chmod(0o777)
    _PATTERN.write_text(f"{tmp_path}/core.%p", "ascii")
    yield tmp_path
    _PATTERN.write_text(before, "ascii")


def _unlimited() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _dump(how: str) -> int:
    """Run a program that plants a secret and dies; gives how it ended."""
    script = f"import os, sys; from tlsify.process import protect_process; {_PLANT}\n"
    masked = bytes(b ^ 1 for b in _SECRET).hex()
    words = [sys.executable, "-c", script + _PROGRAMS[how], masked]
    ran = subprocess.run(words, check=False, preexec_fn=_unlimited, stdout=subprocess.DEVNULL)
    return ran.returncode


@pytest.mark.ktls  # for the sake of the guests, which are ours to set up
@pytest.mark.parametrize("how", _PROGRAMS)
def test_core_dumps(cores: Path, how: str) -> None:
    """Nothing is dumped of a protected process, nor of what it forks, until it execs."""
    expected = 0 if how == "forked" else -signal.SIGABRT
    assert _dump(how) == expected
    found = [path.read_bytes() for path in cores.iterdir()]
    assert len(found) == (how in {"unprotected", "executed"})
    assert any(_SECRET in core for core in found) == (how == "unprotected")


def test_nobody_may_look() -> None:
    """PR_GET_DUMPABLE says 0 of a protected process; what it execs is as any other."""
    look = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)"
    script = f"""
import os, sys
from tlsify.process import protect_process
protect_process()
{look}
os.execv(sys.executable, [sys.executable, "-c", {look!r}])
"""
    words = [sys.executable, "-c", script]
    assert subprocess.run(words, check=True, capture_output=True).stdout == b"0\n1\n"


def test_kernel_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is an error, not a shrug."""
    monkeypatch.setattr(process, "_PR_SET_DUMPABLE", -1)
    with pytest.raises(OSError, match="Invalid") as raised:
        protect_process()
    assert raised.value.errno == errno.EINVAL
