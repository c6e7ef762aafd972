"""The order in which backends are asked: as they are named, in turns, or by their connections."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from tlsify.serving.backend.address import Backend

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


class Balance(Enum):
    """Which backend is asked first; the others are for the case that it takes no connection."""

    FIRST = "first"
    ROUND_ROBIN = "round-robin"
    LEAST_CONNECTIONS = "least-connections"


class Order:
    """Orders backends, by what this process has seen of them."""

    def __init__(self, balance: Balance = Balance.FIRST) -> None:
        """Begin with no connection."""
        self._balance = balance
        self._turns = Counter[tuple[Backend, ...]]()
        self._connections = Counter[Backend]()

    def of(self, backends: tuple[Backend, ...], down: Collection[Backend]) -> Sequence[Backend]:
        """Return backends in the order in which to ask them, those that are down at the end."""
        found = [backend for backend in backends if backend not in down]
        if self._balance is not Balance.FIRST and found:
            turn = self._turns[backends] % len(found)
            self._turns[backends] += 1
            found = found[turn:] + found[:turn]
        if self._balance is Balance.LEAST_CONNECTIONS:
            found.sort(key=self._connections.__getitem__)
        return [*found, *(backend for backend in backends if backend in down)]

    @contextmanager
    def trying(self, backend: Backend) -> Iterator[None]:
        """Count a connection, which ends here if the block fails, or else by `leave`."""
        self._connections[backend] += 1
        try:
            yield
        except BaseException:
            self.leave(backend)
            raise

    def leave(self, backend: Backend) -> None:
        """Count the end of a connection."""
        self._connections[backend] -= 1
