"""Make a man page of one of the command's pages in Markdown; scripts/cli_docs calls it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from docutils import nodes
from docutils.core import publish_doctree, publish_from_doctree
from myst_parser.parsers.docutils_ import Parser

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# What readers of man pages look for.
SECTIONS = {"Interface": "Description", "Exit codes": "Exit status"}


def man_page(name: str, version: str, page: str, all_names: Collection[str]) -> str:
    """Make one.

    The page's title is left out, its first paragraph says what the command does, and the code
    behind that is the synopsis. Tables, of which all have a term and what it means, become lists
    of definitions.

    Args:
        name: of the man page.
        version: of tlsify.
        page: Markdown.
        all_names: of all pages, this one included.
    """
    settings = {
        "doctitle_xform": False,
        "myst_all_links_external": True,  # where they lead does not matter here
        "myst_highlight_code_blocks": False,
        "halt_level": 3,
    }
    tree = publish_doctree(page, parser=Parser(), settings_overrides=settings)
    for table in list(tree.findall(nodes.table)):
        table.replace_self(_definitions(table))
    for reference in list(tree.findall(nodes.reference)):
        reference.replace_self(_reference(reference, all_names))
    for comment in list(tree.findall(nodes.raw)):
        comment.parent.remove(comment)
    _, summary, synopsis, *sections = next(tree.findall(nodes.section)).children
    for section in sections:
        title = next(section.findall(nodes.title))
        text = SECTIONS.get(title.astext(), title.astext())
        title.replace_self(nodes.title("", text.upper()))
    made = tree.copy()
    made += [
        nodes.title("", name),
        nodes.subtitle("", summary.astext().rstrip(".")),
        nodes.docinfo("", _field("manual_section", "1"), _field("version", f"tlsify {version}")),
        nodes.section("", nodes.title("", "SYNOPSIS"), synopsis),
        *sections,
        _see_also(other for other in all_names if other != name),
    ]
    overrides = {"output_encoding": "unicode"}
    written = publish_from_doctree(made, writer="manpage", settings_overrides=overrides)
    # The writer begins each paragraph with space, also where there is some already.
    text = re.sub(r"^(\.S[HS] .*\n)\.sp\n", r"\1", cast("str", written), flags=re.MULTILINE)
    return text.replace(".SH Name\n", ".SH NAME\n")


def _field(name: str, value: str) -> nodes.field:
    """Make a line of the header."""
    body = nodes.field_body("", nodes.paragraph("", value))
    return nodes.field("", nodes.field_name("", name), body)


def _definitions(table: nodes.table) -> nodes.definition_list:
    """Turn a table's rows into terms with what they mean."""
    made = nodes.definition_list()
    for row in next(table.findall(nodes.tbody)).findall(nodes.row):
        term, meaning = row.findall(nodes.entry)
        words = [part for paragraph in term.children for part in paragraph.children]
        made += nodes.definition_list_item(
            "", nodes.term("", "", *words), nodes.definition("", *meaning.children)
        )
    return made


def _reference(reference: nodes.reference, all_names: Collection[str]) -> nodes.Node:
    """Keep a link's words, and refer to another man page if it leads to one.

    Words that are the page's name, or its path, need not be kept beside it.
    """
    target = reference.get("refuri", "").partition("#")[0].removeprefix("cli/")
    name = "tlsify" if target == "../cli.md" else f"tlsify-{target.removesuffix('.md')}"
    words = " ".join(reference.astext().split())
    if name not in all_names:
        return nodes.Text(words)
    if words in {name, name.replace("-", " "), name.removeprefix("tlsify-"), "docs/cli.md"}:
        return _manual(name)
    return nodes.inline("", "", nodes.Text(f"{words} (see "), _manual(name), nodes.Text(")"))


def _manual(name: str) -> nodes.inline:
    return nodes.inline("", "", nodes.strong("", name), nodes.Text("(1)"))


def _see_also(names: Iterable[str]) -> nodes.section:
    """List other pages."""
    line = nodes.paragraph()
    for name in names:
        line += [nodes.Text(", ")] * bool(line.children)
        line += _manual(name)
    return nodes.section("", nodes.title("", "SEE ALSO"), line)
