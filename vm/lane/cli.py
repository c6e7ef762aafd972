"""The command line of vm/run."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lane import apt, cache, image, kernel, process, qemu, session, uml, umlbuild
from lane.cache import LaneError
from lane.peers import PEERS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

FAILED = 125
INTERRUPTED = 130
PATH = f"{image.ENVIRONMENT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AT_ONCE = 2


def main() -> int:
    """Run vm/run."""
    options = _parser().parse_args()
    return _guarded("vm/run", lambda: _dispatch(options))


def main_build_uml() -> int:
    """Run vm/build-uml."""
    argparse.ArgumentParser(
        prog="vm/build-uml", description="Build the kernel of vm/run --kernel uml, once."
    ).parse_args()

    def build() -> int:
        print(umlbuild.build() / "linux")
        return 0

    return _guarded("vm/build-uml", build)


def _guarded(program: str, action: Callable[[], int]) -> int:
    """Return the action's status, or that of its failure, told in words."""
    # As an exception, so that every guest and every unfinished build is cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if sys.stdin is None:
        # Else the next file opened would be taken for it.
        os.open(os.devnull, os.O_RDONLY)
    try:
        return action()
    except LaneError as error:
        _complain(program, str(error), error.hint)
        return FAILED
    except session.TimedOutError as error:
        _complain(program, str(error), "give it more with --timeout")
        return session.TIMED_OUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What reads the output has gone: end as a program does that is killed by SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _complain(program: str, error: str, hint: str) -> None:
    print(f"{program}: error: {error}", f"{program}: hint: {hint}", sep="\n", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vm/run",
        description="Run a command in a guest that has kernel TLS.",
        usage="vm/run [--kernel NAME] [--mount DIR]... [--env NAME[=VALUE]]... [--timeout S]\n"
        "              [--scratch DIR] [--all] [--] COMMAND...\n"
        "       vm/run --list | --ready [KERNEL]... | --setup",
    )
    names = [*kernel.declared(), "uml"]
    parser.add_argument(
        "--kernel", choices=names, default=kernel.default(), help="(default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="run on every kernel but uml")
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="DIR",
        type=Path,
        help="make DIR visible in the guest, read-only, at the same path",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set a variable in the guest; TLSIFY_* are passed anyway",
    )
    parser.add_argument(
        "--timeout", type=float, default=1800, metavar="S", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=image.PROJECT / ".scratch",
        metavar="DIR",
        help="where files that the command leaves in $TLSIFY_SCRATCH go on the host",
    )
    parser.add_argument("--list", action="store_true", help="show the kernels")
    parser.add_argument(
        "--ready",
        action="store_true",
        help="fetch and build what the tests, or some kernels, still lack",
    )
    parser.add_argument(
        "--setup", action="store_true", help="fetch and build everything, or renew it"
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS
    )
    return parser


def _dispatch(options: argparse.Namespace) -> int:
    if options.list:
        return _list()
    if options.setup:
        return _setup()
    if options.ready:
        return _ready(options.command)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        raise LaneError("no command given", "vm/run [--kernel NAME] -- COMMAND...")
    if options.all:
        return _run_all(options)
    call = _call(options)
    if options.kernel == "uml":
        return uml.run(call)
    return qemu.run(kernel.declared()[options.kernel], call)


def _call(options: argparse.Namespace) -> session.Call:
    for folder in options.mount:
        if not folder.is_dir():
            raise LaneError(f"--mount {folder}: no such folder", "name an existing folder")
    environment = {name: value for name, value in os.environ.items() if name.startswith("TLSIFY_")}
    environment |= {
        "PATH": PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(image.PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        # These would else try to write into the project.
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # noqa: S108 - the guest's own
        "PYTEST_ADDOPTS": "-o cache_dir=/tmp/pytest-cache",
        "TLSIFY_EXPECT_KTLS": "1",
        "TLSIFY_GUEST": options.kernel,
        "TLSIFY_SCRATCH": str(image.PROJECT / ".scratch"),
    }
    for setting in options.env:
        name, equals, value = setting.partition("=")
        environment[name] = value if equals else os.environ.get(name, "")
    return session.Call(
        argv=tuple(options.command),
        cwd=image.PROJECT,
        environment=environment,
        mounts=tuple(folder.resolve() for folder in options.mount),
        scratch=options.scratch.resolve(),
        timeout=options.timeout,
    )


def _list() -> int:
    for name, entry in kernel.declared().items():
        files = cache.peek(partial(kernel.files, entry))
        ready = cache.peek(partial(qemu.ready_snapshot, entry))
        state = "ready" if ready else "made ready by its first run"
        print(f"{name:8} {files.version if files else '-':28} {state}")
    built = cache.peek(umlbuild.build)
    version = (built / "version").read_text() if built else "-"
    print(f"{'uml':8} {version:28} {'ready' if built else 'to be built by vm/build-uml'}")
    return 0


def _setup() -> int:
    apt.refresh(force=True)
    PEERS.renew()
    for entry in kernel.declared().values():
        apt.choose(entry.kind, entry.selection)
        qemu.ready_snapshot(entry)
    return _list()


def _ready(names: list[str]) -> int:
    known = kernel.declared()
    if unknown := sorted(set(names) - {*known, "uml"}):
        raise LaneError(f"no such kernel: {', '.join(unknown)}", "vm/run --list shows them")
    PEERS.environment()
    for name in names or [*known, "uml"]:
        if name == "uml":
            umlbuild.ready()
        else:
            qemu.ready_snapshot(known[name])
    return 0


def _run_all(options: argparse.Namespace) -> int:
    """Run the command on every kernel, each by a vm/run of its own, and report each in a line."""
    options_of_each = [f"--timeout={options.timeout}"]
    options_of_each += [f"--mount={folder}" for folder in options.mount]
    options_of_each += [f"--env={setting}" for setting in options.env]
    waiting = list(kernel.declared())
    running: list[_Run] = []
    failed = False
    with contextlib.ExitStack() as stack:
        while waiting or running:
            while waiting and len(running) < min(AT_ONCE, os.cpu_count() or 1):
                name = waiting.pop(0)
                scratch = f"--scratch={options.scratch / name}"
                words = [sys.executable, sys.argv[0], "--kernel", name, scratch, *options_of_each]
                output = stack.enter_context(tempfile.TemporaryFile())
                started = process.started([*words, "--", *options.command], output=output.fileno())
                child = stack.enter_context(started)
                running.append(_Run(name, child, output, time.monotonic()))
            time.sleep(0.05)
            for run in [run for run in running if run.child.poll() is not None]:
                running.remove(run)
                failed |= run.report()
    return int(failed)


@dataclass(frozen=True)
class _Run:
    name: str
    child: subprocess.Popen[bytes]
    output: IO[bytes]
    begin: float

    def report(self) -> bool:
        """Print the result, with the output if it failed; return whether it did."""
        seconds = time.monotonic() - self.begin
        files = cache.peek(partial(kernel.files, kernel.declared()[self.name]))
        version = files.version if files else "-"
        status = self.child.returncode
        print(f"{self.name:8} {version:28} exit {status:<4} {seconds:6.1f} s", flush=True)
        if status:
            self.output.seek(0)
            shutil.copyfileobj(self.output, sys.stdout.buffer)
            sys.stdout.flush()
        return bool(status)
