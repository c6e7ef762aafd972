"""Tests of Prometheus's text format."""

from __future__ import annotations

from tlsify.metrics.prometheus import family, sample, spell


def test_lines() -> None:
    """A family has its two lines, and a sample one, whatever a label's value contains."""
    assert [*family("n", "gauge", "What it is.")] == ["# HELP n What it is.\n", "# TYPE n gauge\n"]
    assert sample("n", 1.5) == "n 1.5\n"
    assert sample("n", 2, spell(a='b"c', d="e\\f\ng")) == 'n{a="b\\"c",d="e\\\\f\\ng"} 2\n'
