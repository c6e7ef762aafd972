"""Check what no linter does: modules have tests, docstrings and 400 lines at most, errors hints."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
# Packages' __init__ files and entry points hold no logic of their own.
UNTESTED = {"__init__.py", "__main__.py"}
# The general hints of these say nothing about one case.
HINTED = {"ConfigError", "UsageError"}


def problems() -> list[str]:
    """List everything that is out of place."""
    found = []
    for path in sorted((ROOT / "tlsify").rglob("*.py")):
        name = path.relative_to(ROOT)
        text = path.read_text()
        lines = text.count("\n")
        if lines > MAX_LINES:
            found.append(f"{name}: {lines} lines, more than {MAX_LINES}")
        tree = ast.parse(text)
        if not ast.get_docstring(tree):
            found.append(f"{name}: no docstring")
        found += [f"{name}:{line}: no hint" for line in unhinted(tree)]
        if path.name in UNTESTED:
            continue
        inside = path.relative_to(ROOT / "tlsify")
        test = ROOT / "tests" / inside.parent / f"test_{path.name}"
        if not test.exists():
            found.append(f"{name}: no {test.relative_to(ROOT)}")
    return found


def unhinted(tree: ast.Module) -> list[int]:
    """Return the lines of errors that are made without a hint of their own."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in HINTED
        and not any(word.arg in {"hint", None} for word in node.keywords)
    ]


if __name__ == "__main__":
    if complaints := problems():
        sys.exit("\n".join(complaints))
