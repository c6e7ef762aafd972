"""Contenders take turns (A B C A B C), after a round that counts for nothing."""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from contextlib import AbstractContextManager

# One turn: does the work and gives figures by name.
Turn: TypeAlias = "Callable[[], dict[str, float]]"
# Makes a contender ready, and gives its turn; raises `Missing` if it cannot take part.
Start: TypeAlias = "Callable[[], AbstractContextManager[Turn]]"


class Missing(Exception):
    """A contender cannot take part, for the reason given."""


@dataclass(frozen=True)
class Contender:
    """One program, or one way to do the work.

    Attributes:
        name: as the tables show it.
        start: makes it ready.
    """

    name: str
    start: Start


@dataclass(frozen=True)
class Experiment:
    """The same work for several contenders.

    Attributes:
        title: what the work is.
        contenders: who takes part, in the order of their turns.
        figure: the figure by which they are compared; the others are kept beside it.
        unit: of that figure.
        reference: the contender that ratios are to.
        more_is_better: which way the figure is to be read.
        note: what a reader has to know.
    """

    title: str
    contenders: tuple[Contender, ...]
    figure: str
    unit: str
    reference: str
    more_is_better: bool = False
    note: str = ""

    def only(self, pattern: re.Pattern[str] | None) -> Experiment | None:
        """Return it with the contenders whose "title: name" has the pattern; None if none has."""
        if pattern is None:
            return self
        wanted = [one for one in self.contenders if pattern.search(f"{self.title}: {one.name}")]
        return replace(self, contenders=tuple(wanted)) if wanted else None


@dataclass
class Outcome:
    """What came out of an experiment.

    Attributes:
        experiment: which one.
        figures: contender -> figure -> one value for each round.
        missing: contender -> why it took no part.
        failed: contender -> how it failed on the way.
    """

    experiment: Experiment
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return it for the record."""
        one = self.experiment
        return {
            "title": one.title,
            "figure": one.figure,
            "unit": one.unit,
            "reference": one.reference,
            "more_is_better": one.more_is_better,
            "note": one.note,
            "contenders": [contender.name for contender in one.contenders],
            "figures": self.figures,
            "missing": self.missing,
            "failed": self.failed,
        }


def run(experiment: Experiment, rounds: int, *, warm_up: bool = True) -> Outcome:
    """Start everybody, have them take turns, and stop them.

    Whoever fails, or turns out to be unable, is out; the others go on.
    """
    outcome = Outcome(experiment)
    print(f"{experiment.title}: ", end="", file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        turns = _start(experiment, outcome, stack)
        for number in range(rounds + warm_up):
            print(".", end="", file=sys.stderr, flush=True)
            for name, turn in list(turns.items()):
                try:
                    figures = turn()
                except Missing as exc:
                    outcome.missing[name] = str(exc)
                    del turns[name]
                    continue
                except Exception as exc:  # whatever it is, it is the contender's
                    outcome.failed[name] = _describe(exc)
                    del turns[name]
                    continue
                if number >= warm_up:
                    kept = outcome.figures.setdefault(name, {})
                    for figure, value in figures.items():
                        kept.setdefault(figure, []).append(value)
    print(file=sys.stderr)
    for name, reason in outcome.failed.items():
        print(f"  failed: {name}: {reason}", file=sys.stderr)
    return outcome


def _start(
    experiment: Experiment, outcome: Outcome, stack: contextlib.ExitStack
) -> dict[str, Turn]:
    """Make everybody ready, at the same time: that is not what is measured."""
    turns: dict[str, Turn] = {}
    with ThreadPoolExecutor(len(experiment.contenders)) as pool:
        managers = {one.name: one.start() for one in experiment.contenders}
        begun = {name: pool.submit(manager.__enter__) for name, manager in managers.items()}
    for name, future in begun.items():
        try:
            turns[name] = future.result()
        except Missing as exc:
            outcome.missing[name] = str(exc)
        except Exception as exc:  # whatever it is, it is the contender's
            outcome.failed[name] = _describe(exc)
        else:
            stack.push(managers[name].__exit__)
    return turns


def _describe(exc: Exception) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}"[:400]
