"""What a run is given: how large, how often, on which cores, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.bench.servers import Setting

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.bench.credentials import Credentials


@dataclass(frozen=True)
class Plan:
    """One run of one suite.

    Attributes:
        folder: for files, gone at the end.
        smoke: as small as possible, only to see that everything runs.
        rounds: how often everybody has a turn that counts.
        core: where what is measured runs.
        load_core: where the load runs; another one, if there is.
        cores: how many there are.
        backend: port of the plain server behind terminators (`servers.backend`).
    """

    folder: Path
    smoke: bool
    rounds: int
    core: int
    load_core: int
    cores: int
    backend: int = 0

    def setting(self, credentials: Credentials) -> Setting:
        """Return what a server is started with."""
        return Setting(
            folder=self.folder,
            credentials=credentials,
            files=self.folder,
            core=self.core,
            backend=self.backend,
        )
