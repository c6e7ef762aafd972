"""The public surface: each name leads to one object, for programs and for type checkers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_PACKAGES = ["tlsify", "tlsify.aio"]
# Whatever has been imported before, and in whatever order.
_LOOK = """
import importlib, pkgutil, sys
import tlsify
package = importlib.import_module(sys.argv[1])
before = {name: getattr(package, name) for name in package.__all__}
for module in pkgutil.walk_packages(tlsify.__path__, "tlsify."):
    if not module.name.endswith("__main__") and ".integrations." not in module.name:
        importlib.import_module(module.name)
for name, found in before.items():
    assert getattr(package, name) is found, name
    assert type(found).__name__ != "module", name
"""


@pytest.mark.parametrize("package", _PACKAGES)
def test_each_name_is_one_object(package: str) -> None:
    """It is no module, and stays what it is once every module has been imported."""
    subprocess.run([sys.executable, "-c", _LOOK, package], check=True)


@pytest.mark.parametrize("package", _PACKAGES)
def test_type_checkers_see_the_same(package: str) -> None:
    """What they import is what ``__all__`` names, each from where it is found at run time."""
    made: ModuleType = importlib.import_module(package)
    (guarded,) = (
        each
        for each in ast.parse(Path(str(made.__file__)).read_text()).body
        if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"{package}.{home}" for name, home in made._HOME_OF.items()}
    assert made.__all__ == [*made._HOME_OF]


@pytest.mark.parametrize("package", _PACKAGES)
def test_name_that_there_is_not(package: str) -> None:
    """It is no attribute."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = importlib.import_module(package).nonsense
