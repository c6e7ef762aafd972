"""Runs stages side by side, says how far each is, and sums up."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from scripts.testing.stages import NO_TESTS, ROOT, Stage, inherited
from tests.progress import MARK, VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

# One more than there are processors: a guest in which a test waits leaves its own to another.
AT_ONCE = max(3, len(os.sched_getaffinity(0)) + 1)
INTERVAL = 30.0  # seconds between two lines that say how far everything is
LOGS = ROOT / ".scratch" / "tests"
_REPORT = re.compile(r"^=+ (?:ERRORS|FAILURES) =+$", re.MULTILINE)


@dataclass
class Running:
    """A stage under way, or ended.

    Attributes:
        stage: which.
        log: where what pytest prints goes.
        total: how many tests it has found; 0 before it has.
        counts: tests by outcome, so far.
        seconds: of each test, so far.
        processor: seconds of processor time that it has used, once it has ended.
        status: exit status; None while it runs.
    """

    stage: Stage
    log: Path
    total: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("passed", "failed", "skipped"), 0)
    )
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)
    end: float = 0.0
    processor: float = 0.0
    status: int | None = None

    @property
    def failed(self) -> bool:
        """Whether a test failed, or the stage itself: where tests must be, none is a failure."""
        if self.status == NO_TESTS:
            return not self.stage.may_be_empty
        is_cut_short = sum(self.counts.values()) < self.total
        return bool(self.counts["failed"]) or self.status != 0 or is_cut_short

    def age(self) -> float:
        """Return the seconds it has taken."""
        return (self.end or time.monotonic()) - self.begin

    def take(self, text: bytes) -> None:
        """Store what it reports."""
        event = json.loads(text)
        if "total" in event:
            self.total = event["total"]
            return
        name, outcome = event["test"], event["outcome"]
        self.counts[outcome] += 1
        self.seconds[name] = event["seconds"]
        if outcome == "failed":
            self.failures.append(name)

    def progress(self) -> str:
        """Print the progress."""
        done = sum(self.counts.values())
        if not self.total:
            return f"{self.stage.name} collecting"
        return f"{self.stage.name} {done}/{self.total} ({100 * done // self.total} %)"

    def summary(self) -> str:
        """Print how it ended, in the form that is asked of a test runner's last line."""
        return ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())


class Run:
    """All stages of one call."""

    def __init__(self, stages: list[Stage]) -> None:
        """Prepare."""
        self._waiting = list(stages)
        self._running: list[Running] = []
        self.ended: list[Running] = []
        self._news = threading.Condition()
        self._begin = time.monotonic()
        LOGS.mkdir(parents=True, exist_ok=True)

    def run(self) -> bool:
        """Run all stages to their ends; tell whether all went well."""
        with contextlib.ExitStack() as stack, self._news:
            next_line = time.monotonic() + INTERVAL
            while self._waiting or self._running:
                while self._waiting and len(self._running) < AT_ONCE:
                    self._start(self._waiting.pop(0), stack)
                self._news.wait(max(0.0, next_line - time.monotonic()))
                self._collect()
                if time.monotonic() >= next_line:
                    next_line += INTERVAL
                    self._say(", ".join(running.progress() for running in self._running))
        return not any(ended.failed for ended in self.ended)

    def _start(self, stage: Stage, stack: contextlib.ExitStack) -> None:
        running = Running(stage, LOGS / f"{stage.name}.log")
        log, events = (
            stack.enter_context((LOGS / f"{stage.name}.{suffix}").open("wb", buffering=0))
            for suffix in ("log", "jsonl")
        )
        process = subprocess.Popen(
            stage.words,
            cwd=ROOT,
            env=inherited() | stage.environment | {VARIABLE: "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(_end, process)
        arguments = (running, process, log, events)
        threading.Thread(target=self._follow, args=arguments, daemon=True).start()
        self._running.append(running)
        self._say(f"{stage.name} begins")

    def _follow(
        self,
        running: Running,
        process: subprocess.Popen[bytes],
        log: IO[bytes],
        events: IO[bytes],
    ) -> None:
        """Record what a stage reports of its tests, and write all of its output down."""
        try:
            with process.stdout or contextlib.nullcontext(()) as lines:
                for line in lines:
                    text, mark, event = line.partition(MARK)
                    log.write(text)
                    if mark:
                        events.write(event)
                        with self._news:
                            running.take(event)
        finally:
            # Whatever went wrong here, as on a full disk: the stage does not run for ever unread.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            with self._news:
                running.end = time.monotonic()
                running.processor = usage.ru_utime + usage.ru_stime
                running.status = process.returncode
                self._news.notify()

    def _collect(self) -> None:
        """Report the stages that have ended."""
        for running in [running for running in self._running if running.status is not None]:
            self._running.remove(running)
            self.ended.append(running)
            self._say(f"{running.stage.name} ends: {running.summary()}")
            if running.failed:
                print(_failures(running), flush=True)

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._begin:5.0f} s  {what}", flush=True)

    def summarize(self, slowest: int) -> None:
        """Print a line for each stage and one for all of them; the slowest tests, if wanted."""
        for ended in self.ended if slowest else []:
            print(f"\nslowest of {ended.stage.name}:")
            ranked = sorted(ended.seconds.items(), key=lambda item: -item[1])
            for name, seconds in ranked[:slowest]:
                print(f"{seconds:8.2f} s  {name}")
        print()
        for ended in self.ended:
            usual = {0, 1, NO_TESTS} if ended.stage.may_be_empty else {0, 1}
            broken = "" if ended.status in usual else f", exit status {ended.status}"
            spent = f"in {ended.age():.0f} s ({ended.processor:.0f} s of a processor)"
            print(f"{ended.stage.name:8} {ended.summary()} {spent}{broken}")
        for ended in self.ended:
            for name in ended.failures:
                print(f"failed: {ended.stage.name} {name}")
        totals = {
            outcome: sum(ended.counts[outcome] for ended in self.ended)
            for outcome in ("passed", "failed", "skipped")
        }
        # A stage that broke down without a test that failed has failed all the same.
        totals["failed"] += sum(ended.failed and not ended.counts["failed"] for ended in self.ended)
        print(", ".join(f"{count} {outcome}" for outcome, count in totals.items()))


def _failures(running: Running) -> str:
    """Return what pytest said of its failures; all that it said, if it did not get so far."""
    text = running.log.read_text(errors="replace")
    report = _REPORT.search(text)
    return text[report.start() :] if report else text


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind that still runs, whatever the end is."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def main(stages: list[Stage], slowest: int) -> int:
    """Run the stages, and give the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run = Run(stages)
    try:
        good = run.run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    run.summarize(slowest)
    return int(not good or all(ended.status == NO_TESTS for ended in run.ended))
