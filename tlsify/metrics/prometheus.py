"""Prometheus's text format: families, samples and their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def family(name: str, kind: str, meaning: str) -> Iterator[str]:
    """Return the lines that introduce the samples of a name."""
    yield f"# HELP {name} {meaning}\n"
    yield f"# TYPE {name} {kind}\n"


def sample(name: str, number: float, labels: str = "") -> str:
    """Return the line of one sample; ``labels`` are as `spell` returns them."""
    return f"{name}{{{labels}}} {number}\n" if labels else f"{name} {number}\n"


def spell(**labels: str) -> str:
    """Return labels as they stand within a sample's braces."""
    return ",".join(f'{label}="{_escape(value)}"' for label, value in labels.items())


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
