"""What the tables are made of: turns, medians, records counted, system calls counted."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench import interleave, pages, report
from scripts.bench.fetching import Meter
from scripts.bench.interleave import Contender, Experiment, Missing
from scripts.bench.suites.counts import tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.bench.interleave import Start, Turn


def _starter(log: list[str], name: str, fails: Exception | None = None) -> Start:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        if isinstance(fails, Missing):
            raise fails

        def turn() -> dict[str, float]:
            log.append(name)
            if fails is not None:
                raise fails
            return {"time": float(len(log))}

        yield turn
        log.append(f"{name} ends")

    return start


def _experiment(log: list[str]) -> Experiment:
    starters = {
        "a": _starter(log, "a"),
        "b": _starter(log, "b"),
        "broken": _starter(log, "broken", RuntimeError("it | broke")),
        "absent": _starter(log, "absent", Missing("not installed")),
    }
    contenders = tuple(Contender(name, start) for name, start in starters.items())
    return Experiment("work", contenders, figure="time", unit="s", reference="a")


def test_contenders_take_turns_after_a_warm_up() -> None:
    """A B A B, the first of which do not count; then everybody is stopped."""
    log: list[str] = []
    outcome = interleave.run(_experiment(log), rounds=2)
    ends = ("broken ends", "b ends", "a ends")
    assert log == ["a", "b", "broken", "a", "b", "a", "b", *ends]
    assert outcome.figures == {"a": {"time": [4.0, 6.0]}, "b": {"time": [5.0, 7.0]}}


def test_who_fails_or_is_missing_is_told(tmp_path: Path) -> None:
    """The others go on, and the table has a row for everybody."""
    outcome = interleave.run(_experiment([]), rounds=2)
    assert outcome.missing == {"absent": "not installed"}
    assert outcome.failed == {"broken": "RuntimeError: it | broke"}
    record = {
        "suite": "some",
        "about": "Some.",
        "rounds": 2,
        "machine": {},
        "experiments": [outcome.as_json()],
    }
    report.keep(record, tmp_path)
    report.write(tmp_path)
    table = (tmp_path / "README.md").read_text()
    assert "| a | 5.00 (4.00 to 6.00) | 1.00 |" in table
    assert "| b | 6.00 (5.00 to 7.00) | 1.21 (1.17 to 1.25) |" in table
    assert "| absent | missing: not installed |" in table
    assert "| broken | failed: RuntimeError: it / broke |" in table


@given(st.lists(st.integers(17, 2000), max_size=20), st.integers(1, 700))
def test_records_are_counted_however_they_arrive(lengths: list[int], piece: int) -> None:
    """Wherever the stream is cut, the plaintext is what is inside of the records."""
    stream = b"".join(b"\x17\x03\x03" + n.to_bytes(2, "big") + bytes(n) for n in lengths)
    meter = Meter()
    for start in range(0, len(stream), piece):
        meter.feed(memoryview(stream[start : start + piece]))
    assert meter.records == len(lengths)
    assert meter.plaintext == sum(lengths) - 17 * len(lengths)


def test_what_is_no_record_is_refused() -> None:
    """An answer in plain text must not pass for one over TLS."""
    with pytest.raises(RuntimeError, match="type 72"):
        Meter().feed(memoryview(b"HTTP/1.1 200 OK"))


def test_system_calls_are_counted() -> None:
    """Once each, those that another thread interrupts too; failed ones carry nothing."""
    trace = """\
12 sendfile(7, 9, [0] => [65536], 65536) = 65536
12 recvfrom(7, ""..., 262144, 0, NULL, NULL) = 120
12 recvfrom(7, 0x1, 262144, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
13 epoll_wait(5,  <unfinished ...>
12 sendto(7, ""..., 200, 0, NULL, 0) = 200
13 <... epoll_wait resumed>[], 16, 1) = 0
13 +++ exited with 0 +++
"""
    calls, copied, inside = tally(trace.splitlines())
    assert dict(calls) == {"sendfile": 1, "recvfrom": 2, "epoll_wait": 1, "sendto": 1}
    assert (copied, inside) == (320, 65536)


def _record(folder: Path, **figures: list[float]) -> None:
    experiment = {
        "title": "work",
        "figure": "time",
        "reference": "a",
        "figures": {name: {"time": values} for name, values in figures.items()},
    }
    (folder / "suite.json").write_text(json.dumps({"experiments": [experiment]}))


def _fill(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    page = folder / "page.md"
    page.write_text("before\n<!-- table: some -->\nold\n<!-- end -->\nbehind\n")
    column = pages.Column("each", "suite", "work", pages.both)
    monkeypatch.setattr(pages, "PAGE", page)
    monkeypatch.setattr(pages, "TABLES", {"some": pages.Table("who", ("a", "b", "c"), (column,))})
    pages.fill(folder)
    return page.read_text()


def test_a_page_is_filled_from_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians, with ratios round by round; who has no figures is shown without."""
    _record(tmp_path, a=[1.0, 2.0, 4.0], b=[2.0, 5.0, 8.0])
    assert _fill(tmp_path, monkeypatch) == (
        "before\n<!-- table: some -->\n| who | each |\n|---|---:|\n| a | 2.00 (1.00) |\n"
        "| b | 5.00 (2.00) |\n| c | - |\n<!-- end -->\nbehind\n"
    )


def test_who_left_early_has_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds cannot be told from each other then."""
    _record(tmp_path, a=[1.0, 2.0, 4.0], b=[2.0, 5.0])
    assert "| b | 3.50 (-) |" in _fill(tmp_path, monkeypatch)


def test_the_page_has_every_table() -> None:
    """None is named that nobody can fill, and none is left out."""
    named = re.findall(r"<!-- table: (\w+) -->", pages.PAGE.read_text())
    assert sorted(named) == sorted(pages.TABLES)
