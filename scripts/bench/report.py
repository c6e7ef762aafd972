"""Records to tables: raw JSON beside Markdown with medians, ranges and ratios."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from scripts.bench import plots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIGITS = 3
_INDEX = """# Benchmarks

`scripts/bench/run` writes this page; notes.md has the conclusions. Contenders took turns, in the
given number of rounds after a first one that does not count. A value is the median, with the least
and the most in brackets. A ratio is the median of the rounds' ratios, each of two turns in one
round, so that it does not depend on the machine's speed at the time. The JSON files have the raw
figures. Versions are listed where they differ from those of the suite before.
"""
# The suites that performance.md draws its conclusions from; the tables say the same of all.
_PICTURES = frozenset({"bulk-uml", "first_byte-uml", "handoff-uml", "pieces-uml", "relay"})


def keep(record: dict[str, Any], folder: Path) -> None:
    """Write a suite's record."""
    guest = record["machine"].get("guest")
    name = record["suite"] + (f"-{guest}" if guest else "")
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n")


def write(folder: Path) -> None:
    """Write the tables of all records in a folder, and the plots if matplotlib is there."""
    parts = [_INDEX]
    versions = ""
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        picture = f"{path.stem}.svg" if path.stem in _PICTURES else ""
        if picture and not plots.draw(record, folder / picture):
            picture = ""
        found = record["machine"].get("versions", {})
        peers = ", ".join(f"{name} {version}" for name, version in found.items())
        parts.append("\n".join(_suite(record, "" if peers == versions else peers, picture)))
        versions = peers
    (folder / "README.md").write_text("\n".join(parts))


def _suite(record: dict[str, Any], versions: str, picture: str) -> Iterator[str]:
    machine = record["machine"]
    guest = machine.get("guest")
    yield f"## {record['suite']}{f' (in the {guest} guest)' if guest else ''}\n"
    yield f"{record['about']}\n"
    if machine:
        yield (
            f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, gcm(aes) by "
            f"{machine['aes']}; {record['rounds']} rounds; tlsify "
            f"{record['origin']['tlsify']}, {record['origin']['date']}.\n"
        )
    if versions:
        yield f"{versions}\n"
    if picture:
        yield f"![{record['suite']}]({picture})\n"
    note = ""
    for experiment in record["experiments"]:
        if experiment["note"] and experiment["note"] != note:
            note = experiment["note"]
            yield f"{note}\n"
        yield from _experiment(experiment)


def _experiment(experiment: dict[str, Any]) -> Iterator[str]:
    figure, reference = experiment["figure"], experiment["reference"]
    others = _other_figures(experiment)
    yield f"### {experiment['title']}\n"
    heads = ["", experiment["unit"], f"ratio to {reference}", *others]
    yield f"| {' | '.join(heads)} |"
    yield f"|---{'|---:' * (len(heads) - 1)}|"
    base = experiment["figures"].get(reference, {}).get(figure, [])
    for name in experiment["contenders"]:
        values = experiment["figures"].get(name, {}).get(figure)
        if values is None:
            reason = experiment["missing"].get(name) or experiment["failed"].get(name, "?")
            kind = "missing" if name in experiment["missing"] else "failed"
            yield f"| {name} | {kind}: {_cell(reason)} |{' |' * (len(heads) - 2)}"
            continue
        ratio = _ratio(values, base)
        more = [_other(experiment, name, other) for other in others]
        yield f"| {' | '.join([name, spread(values), ratio, *more])} |"
    yield ""


def _ratio(values: list[float], base: list[float]) -> str:
    """Write the median of each round's ratio."""
    found = ratios(values, base)
    if not found:
        return ""
    middle = f"{statistics.median(found):.2f}"
    if len(found) == 1 or values is base:
        return middle
    return f"{middle} ({min(found):.2f} to {max(found):.2f})"


def ratios(values: list[float], base: list[float]) -> list[float]:
    """Return each round's ratio; none where somebody was not in all rounds."""
    if len(values) != len(base) or not all(base):
        return []
    return [value / other for value, other in zip(values, base, strict=True)]


def _other_figures(experiment: dict[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for figures in experiment["figures"].values():
        found |= dict.fromkeys(figures)
    found.pop(experiment["figure"], None)
    return list(found)


def _other(experiment: dict[str, Any], name: str, figure: str) -> str:
    values = experiment["figures"][name].get(figure)
    return short(statistics.median(values)) if values else ""


def spread(values: list[float]) -> str:
    """Write a median with least and most."""
    middle = short(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({short(min(values))} to {short(max(values))})"


def short(value: float) -> str:
    """Write a number with as many digits as mean something."""
    if value == 0:
        return "0"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, _DIGITS - magnitude)}f}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
