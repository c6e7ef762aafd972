"""Debian's programs in a tree of the cache, from where they run without being installed."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lane import apt, cache, image, relocate
from lane.cache import LaneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, eq=False)
class Collection:
    """Programs that belong together.

    Attributes:
        kind: of build, as the cache knows it.
        what: is fetched, for people.
        selection: patchelf is among the packages.
        programs: their names, and where in the tree they are.
        scripts: text of those that have to be run by a script; it may name the ``{tree}``.
        variables: what their environment has to have, each a path in the tree.
        links: what Debian's "alternatives" would link, and to what.
        unused: patterns of files that are left out.
        compiler: gives a tree with a compiler; None if this one has it.
    """

    kind: str
    what: str
    selection: apt.Selection
    programs: Mapping[str, str]
    scripts: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    compiler: Callable[[], Path] | None = None

    @functools.cached_property
    def tree(self) -> Path:
        """Where it is; fetched and made runnable if it is not there.

        Raises:
            LaneError: it cannot be had on this machine.
        """
        if platform.machine() != "x86_64":
            raise LaneError(f"{self.what} are for x86_64, not {platform.machine()}", "go elsewhere")
        debs = apt.select(self.kind, self.selection)
        contents = (self.programs, self.scripts, self.links, self.unused, image.UNUSED, image.FILES)
        # A tree's programs know where it is.
        parts = (
            debs,
            contents,
            cache.file_digest(relocate.SHIM, Path(relocate.__file__)),
            str(cache.home()),
        )
        key = cache.digest("collection 1", parts)
        place = cache.home() / self.kind / key

        def make(folder: Path) -> None:
            apt.unpack(self.selection, debs, folder)
            self._complete(folder)
            compiler = folder if self.compiler is None else self.compiler()
            relocate.relocate(folder, place, compiler)
            self._gather(folder, place)

        return cache.build(self.kind, key, f"fetching {self.what}", make)

    def _complete(self, folder: Path) -> None:
        """Do what is left of what Debian's installer does, and leave out what nobody needs."""
        for unused in image.UNUSED:
            shutil.rmtree(folder / unused, ignore_errors=True)
        for pattern in self.unused:
            for path in folder.glob(pattern):
                path.unlink()
        for link, target in self.links.items():
            (folder / link).symlink_to(target)
        # Where servers find the users that they insist on.
        for file in ("etc/passwd", "etc/group"):
            (folder / file).write_text(image.FILES[file])

    def _gather(self, folder: Path, place: Path) -> None:
        """Make a folder with the programs, and none that the host has to have anyway."""
        gathered = folder / "programs"
        gathered.mkdir()
        for name, path in self.programs.items():
            if not (folder / path).exists():
                raise LaneError(f"Debian's packages have no {path}", "see vm/lane/peers.py")
            if name in self.scripts:
                (gathered / name).write_text(self.scripts[name].format(tree=place))
                (gathered / name).chmod(0o755)
            else:
                (gathered / name).symlink_to(f"../{path}")

    def renew(self) -> None:
        """Take the newest that the package lists at hand have, and fetch what is new.

        Raises:
            LaneError: it cannot be had.
        """
        apt.choose(self.kind, self.selection)
        self.__dict__.pop("tree", None)
        self.environment()

    def program(self, name: str) -> Path:
        """Give the path of a program."""
        return self.tree / "programs" / name

    def environment(self) -> dict[str, str]:
        """Give the variables that whoever is to find these programs first has to have.

        Raises:
            LaneError: they cannot be had on this machine.
        """
        first, path = str(self.tree / "programs"), os.environ.get("PATH", os.defpath)
        if first not in path.split(os.pathsep):
            path = f"{first}{os.pathsep}{path}"
        return {"PATH": path} | {name: f"{self.tree}/{at}" for name, at in self.variables.items()}
