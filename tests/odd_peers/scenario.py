"""A scenario: what an odd peer does, what a program does, and what has to come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from tests.odd_peers.opening import Opening
from tests.odd_peers.parts import CLOSE_NOTIFY
from tests.odd_peers.steps import Fin, Send, Step
from tlsify.codepoints import ProtocolVersion
from tlsify.config import ClosePolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.odd_peers.outcome import Outcome
    from tests.odd_peers.parts import Part
    from tests.odd_peers.reasons import Reason

TLS12 = (ProtocolVersion.TLSv1_2,)
TLS13 = (ProtocolVersion.TLSv1_3,)
CLIENT, SERVER = ("client",), ("server",)
# How a peer ends in good order.
CLOSE = (Send(CLOSE_NOTIFY), Fin())


class Carrier(Enum):
    """Who protects our records."""

    RELAY = "the relay"
    KERNEL = "the kernel"
    OLD_KERNEL = "a kernel before Linux 6.14"


class Difference(NamedTuple):
    """What comes of a scenario on a carrier that does not do as the others.

    Attributes:
        reason: why that is allowed.
        outcome: it.
    """

    reason: Reason
    outcome: Outcome


@dataclass(frozen=True)
class Scenario:
    """One line of the table, for each version and role.

    Attributes:
        name: unique among those of a version and role.
        steps: what happens after the handshake; a part alone is a segment.
        expected: what has to come of it.
        versions: of TLS.
        roles: ours.
        opening: what is odd about the peer's handshake.
        closing: what the program takes an end without close_notify for.
        differs: where it comes otherwise.
        notes_tickets: whether tickets count among what the peer sees.
        sample: whether it runs on each kernel by default, since kernels may differ in it.
    """

    name: str
    steps: tuple[Step | Part, ...]
    expected: Outcome
    versions: tuple[ProtocolVersion, ...] = tuple(ProtocolVersion)
    roles: tuple[str, ...] = CLIENT + SERVER
    opening: Opening = field(default_factory=Opening)
    closing: ClosePolicy = ClosePolicy.STRICT
    differs: Mapping[Carrier, Difference] = field(default_factory=dict)
    notes_tickets: bool = False
    sample: bool = False

    def on(self, carrier: Carrier) -> Outcome:
        """Return what has to come of it on a carrier."""
        found = self.differs.get(carrier)
        if found is None and carrier is Carrier.OLD_KERNEL:
            found = self.differs.get(Carrier.KERNEL)
        return self.expected if found is None else found.outcome

    def play(self) -> Iterator[Step]:
        """Return the steps."""
        for each in self.steps:
            yield each if isinstance(each, Step) else Send(each)

    def cases(self) -> Iterator[Case]:
        """Return one for each version and role."""
        for version, role in product(self.versions, self.roles):
            yield Case(self, version, role)


class Case(NamedTuple):
    """A scenario with a version and a role."""

    scenario: Scenario
    version: ProtocolVersion
    role: str

    @property
    def is_sampled(self) -> bool:
        """Whether it runs on each kernel by default: of several cases of a scenario, two."""
        scenario, version, role = self
        is_alone = len(scenario.versions) * len(scenario.roles) == 1
        is_chosen = (version is ProtocolVersion.TLSv1_3) == (role == "client")
        return scenario.sample and (is_alone or is_chosen)

    def __str__(self) -> str:
        """Name it, as a parameter of a test."""
        return f"{self.scenario.name}-{self.version.label}-{self.role}".replace(" ", "_")
