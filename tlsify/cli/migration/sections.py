"""stunnel's files: lines, folders that are included, and what is said in front of all sections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.cli.migration.draft import Setting
from tlsify.credentials.reading import CONFIGURATION, read_files
from tlsify.errors import ConfigError, TlsifyError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTION = re.compile(r"\[(.*)\]")
_SWITCH = {"yes": True, "no": False}
_INCLUDE = "include"
_DEEPEST = 8  # of folders that include each other


class Service:
    """One section, with what the lines in front of all sections say for it."""

    def __init__(self, name: str, settings: list[Setting]) -> None:
        """Sort its settings by their names, which have no case."""
        self.name = name
        self._left: dict[str, list[Setting]] = {}
        for setting in settings:
            self._left.setdefault(setting.name.lower(), []).append(setting)
        roots = self._left.get("chroot")
        self.root = roots[-1].value if roots else ""

    def all(self, name: str) -> list[Setting]:
        """Take all settings of a name, in their order."""
        return self._left.pop(name.lower(), [])

    def last(self, name: str) -> Setting | None:
        """Take the setting that counts."""
        found = self.all(name)
        return found[-1] if found else None

    def file(self, name: str) -> Setting | None:
        """Take the name of a file or a folder; nothing at all is none."""
        found = self.last(name)
        return found if found is not None and found.value else None

    def is_on(self, name: str) -> bool:
        """Take a switch.

        Raises:
            ConfigError: it says neither yes nor no.
        """
        return is_on(self.last(name))

    def rest(self) -> Iterator[Setting]:
        """Take all that is left."""
        for found in self._left.values():
            yield from found
        self._left.clear()


def is_on(setting: Setting | None) -> bool:
    """Return whether a switch is there, and on.

    Raises:
        ConfigError: it says neither yes nor no.
    """
    if setting is None:
        return False
    found = _SWITCH.get(setting.value.lower())
    if found is None:
        raise ConfigError(
            f"{setting.place}: {setting}: this is no switch", hint="stunnel's are yes and no"
        )
    return found


def read(text: str, name: str) -> list[Service]:
    """Read a configuration, and the folders that it includes.

    Args:
        text: of the file.
        name: of the file, for messages.

    Raises:
        ConfigError: it is none of stunnel's, or has no service.
    """
    reader = _Reader()
    reader.read(text, name)
    if not reader.sections:
        raise ConfigError(
            f"{name}: there is no [service]",
            hint="make the folder readable that it includes"
            if reader.unread
            else 'for inetd, see "tlsify accept --help"',
        )
    return [Service(section, found) for section, found in reader.sections]


class _Reader:
    """Reads files one after the other, each where the one before has ended."""

    def __init__(self) -> None:
        self._common: list[Setting] = []
        self._found = self._common
        self._depth = 0
        self.sections: list[tuple[str, list[Setting]]] = []
        self.unread = False

    def read(self, text: str, name: str) -> None:
        for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            line = raw.replace("\r", "").strip()
            if not line or line[0] in ";#":
                continue
            if (head := _SECTION.fullmatch(line)) is not None:
                self._found = list(self._common)
                self.sections.append((head[1].strip(), self._found))
                continue
            option, equals, value = line.partition("=")
            if not equals:
                raise ConfigError(
                    f"{name}:{number}: {line!r} is no setting",
                    hint="stunnel's lines are OPTION = VALUE",
                )
            setting = Setting(option.strip(), value.strip(), name, number)
            if setting.name.lower() != _INCLUDE or not self._include(setting):
                self._found.append(setting)

    def _include(self, setting: Setting) -> bool:
        """Read all files of a folder, in the order of their names; return whether it is there."""
        try:
            folder = Path(setting.value)
            files = sorted(path for path in folder.iterdir() if path.is_file())
            texts = [
                (content.decode(), Path(path).name)
                for path, content in read_files(folder, files, CONFIGURATION)
            ]
        except (OSError, TlsifyError, ValueError):
            self.unread = True
            return False
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ConfigError(
                f"{setting.place}: {setting}: folders include each other",
                hint="take one of the include lines away",
            )
        for text, name in texts:
            self.read(text, name)
        self._depth -= 1
        return True
