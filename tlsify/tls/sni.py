"""Which of a server's certificates to show for the name that a client asks for (RFC 6066 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tlsify.credentials.key_pair import KeyPair

# One for each kind of key: among these OpenSSL chooses, by what the client can verify.
Group: TypeAlias = "tuple[KeyPair, ...]"


class Choice:
    """A server's key pairs, to be found by name; as fast with thousands as with one."""

    def __init__(self, default: KeyPair, others: Iterable[KeyPair] = ()) -> None:
        """Sort them by the names of their certificates.

        Args:
            default: for clients without a known name; preferred for its own names, too.
            others: of two for the same name and of the same kind the first counts.
        """
        key_pairs = (default, *others)
        self._groups: dict[str, dict[type, KeyPair]] = {}
        names = {key_pair: key_pair.names for key_pair in key_pairs}
        for key_pair in key_pairs:
            for name in names[key_pair]:
                self._groups.setdefault(name, {}).setdefault(type(key_pair.key), key_pair)
        same = [other for other in key_pairs if set(names[other]) == set(names[default])]
        self._default = _group({type(key_pair.key): key_pair for key_pair in reversed(same)})

    def find(self, name: str | None) -> tuple[Group, bool]:
        """Return the key pairs to show.

        An exact name comes before a wildcard, which stands for one whole label (RFC 9525 6.3), and
        still serves clients that can verify none of the exact name's kinds of key.

        Args:
            name: as the client has sent it, in lower case; None if it has not.

        Returns:
            The key pairs, and whether they are for that name.
        """
        wanted = (name or "").removesuffix(".")
        exact = self._groups.get(wanted, {})
        wildcard = self._groups.get(f"*.{wanted.partition('.')[2]}", {})
        if group := _group({**wildcard, **exact}):
            return group, True
        return self._default, False


def _group(kinds: Mapping[type, KeyPair]) -> Group:
    return tuple(kinds.values())
