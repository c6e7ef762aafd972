"""Services of stunnel that are about one name: a route of the service that listens for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlsify.cli.migration.draft import Draft, Setting

# What is the same in tlsify for all names at an address.
_OF_ALL_NAMES = (
    *("client-cert", "client-ca", "client-ref-id", "crl", "ciphers", "groups"),
    *("tls-min", "tls-max", "proxy-protocol"),
)
# What `_route` translates.
_TRANSLATED = {"route"}


def add(drafts: Sequence[Draft], slave: Draft, pattern: Setting) -> None:
    """Add a service that is about one name to the one that listens.

    Args:
        drafts: of all services that listen; gets the route, and what is lost.
        slave: the service.
        pattern: its ``sni``, of the service that listens and the name.

    Raises:
        ConfigError: no service listens for it.
    """
    master, _, name = pattern.value.partition(":")
    draft = next((draft for draft in drafts if draft.name == master), None)
    if draft is None:
        raise ConfigError(
            f"{pattern.place}: there is no service [{master}]", hint="correct the name in sni"
        )
    draft.remarks += [remark for remark in slave.remarks if remark not in draft.remarks]
    draft.pairs += [pair for pair in slave.pairs if pair not in draft.pairs]
    if slave.pairs:
        draft.note(pattern, "clients get the certificate that has the name, whatever the pattern")
    _route(draft, slave, pattern, name)
    for option in sorted({*draft.options, *slave.options} - _TRANSLATED):
        if draft.options.get(option) == slave.options.get(option):
            continue
        if option in _OF_ALL_NAMES:
            draft.endanger(
                pattern, f"[{master}] has another {option}, and tlsify one for all names"
            )
        elif option in slave.options:
            draft.lose(pattern, f"[{master}] decides on {option}: tlsify has one for all names")


def _route(draft: Draft, slave: Draft, pattern: Setting, name: str) -> None:
    if slave.program:
        draft.lose(pattern, "tlsify forwards a name to a backend, and runs no program for it")
    is_label = name.startswith("*.")
    if name.startswith("*"):
        stars = "*.NAME for one label" if is_label else "no such pattern"
        draft.lose(pattern, f"in stunnel * stands for any beginning, and tlsify has {stars}")
    if is_label or not name.startswith("*"):
        for backend in slave.operands:
            draft.add("route", f"sni:{name}={backend}")
