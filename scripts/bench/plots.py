"""Plots of the tables, with matplotlib from the dependency group "bench"."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_WIDTH = 9.0
_ROW = 0.28
_HEAD = 0.9
_OURS, _THEIRS = "#b5472f", "#8c96a0"


def draw(record: dict[str, Any], path: Path) -> bool:
    """Draw bars, one group for each experiment; tells whether that could be done."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - of a dependency group
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "tlsify"
    from matplotlib import pyplot as plt  # noqa: PLC0415 - see above

    groups = [one for one in record["experiments"] if one["figures"]]
    if not groups:
        return False
    sizes = [len(one["figures"]) for one in groups]
    height = sum(_ROW * size + _HEAD for size in sizes)
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(_WIDTH, height), squeeze=False, height_ratios=sizes
    )
    for axis, one in zip(axes[:, 0], groups, strict=True):
        _bars(axis, one)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True


def _bars(axis: Any, experiment: dict[str, Any]) -> None:
    names, middles, below, above = [], [], [], []
    for name in reversed(experiment["contenders"]):
        values = experiment["figures"].get(name, {}).get(experiment["figure"])
        if values:
            middle = statistics.median(values)
            names.append(name)
            middles.append(middle)
            below.append(middle - min(values))
            above.append(max(values) - middle)
    colours = [_OURS if "tlsify" in name else _THEIRS for name in names]
    axis.barh(names, middles, xerr=(below, above), color=colours, error_kw={"elinewidth": 0.8})
    axis.set_title(experiment["title"], fontsize=9, loc="left")
    axis.set_xlabel(experiment["unit"], fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
