"""Check what no linter does: each module has its test, a docstring, and 400 lines at most."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
# Packages' __init__ files and entry points hold no logic of their own.
UNTESTED = {"__init__.py", "__main__.py"}


def problems() -> list[str]:
    """List everything that is out of place."""
    found = []
    for path in sorted((ROOT / "tlsify").rglob("*.py")):
        name = path.relative_to(ROOT)
        text = path.read_text()
        lines = text.count("\n")
        if lines > MAX_LINES:
            found.append(f"{name}: {lines} lines, more than {MAX_LINES}")
        if not ast.get_docstring(ast.parse(text)):
            found.append(f"{name}: no docstring")
        if path.name in UNTESTED:
            continue
        inside = path.relative_to(ROOT / "tlsify")
        test = ROOT / "tests" / inside.parent / f"test_{path.name}"
        if not test.exists():
            found.append(f"{name}: no {test.relative_to(ROOT)}")
    return found


if __name__ == "__main__":
    if complaints := problems():
        sys.exit("\n".join(complaints))
