"""The description that package indexes show: README.md, with links that lead somewhere.

In README.md links are relative, as readers of a clone need them. An index has no files beside the
description: there each link becomes an address below `project.urls.Source`. Where pyproject.toml
names none, a link is its words; those to pages that the package brings along say how to read them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#|mailto:)([^)\s]+)\)")
_PAGE = re.compile(r"docs/((?:cli/)?[\w-]+)\.md")
_VERBS = {path.stem for path in (Path(__file__).parent.parent / "docs/cli").glob("*.md")}


def description(readme: str, source: str | None) -> str:
    """Return README.md's text without relative links.

    Args:
        readme: Markdown.
        source: address of the repository's files; None if it is nowhere public.
    """

    def absolute(link: re.Match[str]) -> str:
        words, target = link[1], link[2]
        if source is not None:
            return f"[{words}]({source.rstrip('/')}/blob/main/{target})"
        page = _PAGE.fullmatch(target.partition("#")[0])
        if page is None:
            return words
        # The name of a verb alone shows its options.
        command = f"`tlsify help {'docs/' if page[1] in _VERBS else ''}{page[1]}`"
        return command if words == page[0] else f"{words} ({command})"

    return _LINK.sub(absolute, readme)


class Description(MetadataHookInterface):
    """What hatchling asks for the metadata that pyproject.toml calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description.

        Args:
            metadata: the table `project` of pyproject.toml.
        """
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(text, source)}
