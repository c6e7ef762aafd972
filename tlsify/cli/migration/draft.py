"""Draft: a configuration file in the making, and what could not be carried over into it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tlsify.errors import ConfigError
from tlsify.logs.text import printable
from tlsify.names import ReferenceIdentifier

# What the kinds of identities are called in a message.
_KINDS = {
    "dns": "DNS name, which has no wildcards",
    "ip": "IP address",
    "uri": "URI, but SCHEME:HOST without a path or wildcards",
}


class Weight(StrEnum):
    """How much a setting matters that is not carried over."""

    NOTE = "note"  # nothing is lost, or it is done in another way
    LOST = "lost"  # the service differs
    SECURITY = "security"  # a peer could do, or see, what it could not before


# Settings whose values are passwords, or keys: theirs, and those that have a typing error.
_SECRET = re.compile(r"pass|secret$|pin$|username|enginectrl|parameter", re.IGNORECASE)
# The same in a part of a value: of a URI for PKCS #11 (RFC 7512), and of a URL.
_SECRET_PART = re.compile(r"(?<=pin-value=)[^;&?]*|(?<=://)[^/@]*(?=@)")


class Setting(NamedTuple):
    """A setting of the other program.

    Attributes:
        name: of the option.
        value: as text.
        source: where it stands: a file's name, or ``word``.
        number: of the line there, or of the word.
    """

    name: str
    value: str
    source: str
    number: int = 0

    @property
    def place(self) -> str:
        """Spell where it stands, such as ``stunnel.conf:12``; alone if it does not stand there."""
        return f"{self.source}:{self.number}" if self.number else self.source

    def __str__(self) -> str:
        """Spell it for a message, and for a file that others may read."""
        value = "***" if _SECRET.search(self.name) else _SECRET_PART.sub("***", self.value)
        return f"{self.name} = {value}" if self.value else self.name


class Remark(NamedTuple):
    """A setting that is not carried over as it was.

    Attributes:
        setting: which.
        weight: how much that matters.
        why: what becomes of it, or what to do.
    """

    setting: Setting
    weight: Weight
    why: str

    def __str__(self) -> str:
        """Spell it as a line."""
        return printable(f"{self.setting.place}: {self.weight}: {self.setting}: {self.why}")


@dataclass(slots=True)
class Draft:
    """A configuration of tlsify's (`options.config_file`).

    Attributes:
        name: of the service.
        verb: what runs it.
        options: by their names, in the order in which they are written.
        operands: what stands behind them.
        program: of the verb `listen`.
        pairs: certificate chains with their keys, the default first.
        remarks: about what is not in there.
    """

    name: str
    verb: str = "forward"
    options: dict[str, object] = field(default_factory=dict)
    operands: list[str] = field(default_factory=list)
    program: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def add(self, option: str, value: str) -> None:
        """Add a value to an option that may be repeated, unless it is there."""
        found = self.options.setdefault(option, [])
        if isinstance(found, list) and value not in found:
            found.append(value)

    def identify(self, option: str, kind: str, setting: Setting) -> None:
        """Add an identity to those that are accepted, if tlsify can compare it as it is meant."""
        identity = f"{kind}:{setting.value}"
        try:
            ReferenceIdentifier.parse(identity).canonical()
        except ConfigError:
            self.endanger(setting, f"tlsify compares no such {_KINDS[kind]}: see {option}")
        else:
            self.add(option, identity)

    def miss(self, option: str, why: str) -> None:
        """Remark that the other program has not said what the service needs."""
        self.lose(Setting(option, "", self.name), f"there is none: {why}")

    def note(self, setting: Setting, why: str) -> None:
        """Remark that nothing is lost."""
        self.remarks.append(Remark(setting, Weight.NOTE, why))

    def lose(self, setting: Setting, why: str) -> None:
        """Remark that the service differs."""
        self.remarks.append(Remark(setting, Weight.LOST, why))

    def endanger(self, setting: Setting, why: str) -> None:
        """Remark that security would be lost."""
        self.remarks.append(Remark(setting, Weight.SECURITY, why))

    def write(self) -> str:
        """Return the text of the file, with a comment for each setting that is lost."""
        lost = [remark for remark in self.remarks if remark.weight is not Weight.NOTE]
        lines = [f"# {remark}" for remark in lost]
        given: dict[str, object] = {"verb": self.verb, **self.options}
        if self.pairs:
            chains, keys = (list(each) for each in zip(*self.pairs, strict=True))
            given |= {"cert": chains} | ({"key": keys} if keys != chains else {})
        given |= {"operands": self.operands} if self.operands else {}
        given |= {"program": self.program} if self.program else {}
        lines += [f"{name} = {_spell(value)}" for name, value in given.items()]
        return "\n".join(lines) + "\n"


def _spell(value: object) -> str:
    """Write a value as TOML: texts are escaped there as in JSON."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_spell, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
