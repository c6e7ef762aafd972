"""What the conversations share, and the table that they leave behind."""

from __future__ import annotations

import base64
import os
import platform
import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.interop.matrix import CELLS, LEFT_OUT, SUITES, Cell, Peer
from tests.interop.peers import Identity, Site
from tlsify.config import KeyPair
from tlsify.handoff import Offload
from tlsify.ktls.probe import capabilities, polls_partial_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.config import TrustAnchors

SIZE = int(os.environ.get("TLSIFY_INTEROP_BYTES", str(2**18)))
_WIDTH = 10


def _text(seed: int) -> bytes:
    """Make a file of short lines: gnutls-serv echoes nothing else."""
    lines = base64.encodebytes(random.Random(seed).randbytes(SIZE * 3 // 4))  # noqa: S311
    return lines[: SIZE - 1] + b"\n"


def _issue(authority: trustme.CA, folder: Path, kind: trustme.KeyType) -> Identity:
    leaf = authority.issue_cert("localhost", "127.0.0.1", key_type=kind)
    chain, key = folder / f"{kind.name}.pem", folder / f"{kind.name}.key"
    leaf.cert_chain_pems[0].write_to_path(chain)
    leaf.private_key_pem.write_to_path(key)
    return Identity(chain, key, KeyPair.load(chain, key))


@pytest.fixture(scope="session")
def site(
    authority: trustme.CA, trust: TrustAnchors, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """Certificates and files; the RSA key, slow to make, only if somebody asks for it."""
    capabilities()  # tried now, its own sockets do not move the counters later
    polls_partial_records()
    folder = tmp_path_factory.mktemp("site")
    anchor = folder / "authority.pem"
    authority.cert_pem.write_to_path(anchor)
    return Site(
        authority=anchor,
        trust=trust,
        ec=_issue(authority, folder, trustme.KeyType.ECDSA),
        rsa=cache(lambda: _issue(authority, folder, trustme.KeyType.RSA)),
        up=_text(1),
        down=_text(2),
        folder=folder,
    )


class Results:
    """Which cells of the table held; what is missing at the end has failed or was not run."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self.passed: dict[Offload, set[Cell]] = {offload: set() for offload in Offload}

    def report(self) -> str:
        """Draw a table for each carrier that was tried."""
        tables = [_table(offload, cells) for offload, cells in self.passed.items() if cells]
        return "\n".join(tables)


def _table(offload: Offload, passed: set[Cell]) -> str:
    where = "the kernel" if offload is Offload.KERNEL else "the relay"
    lines = [
        f"{platform.release()} ({platform.version()}): records by {where}; "
        f"files of {SIZE} bytes both ways, SHA-256 equal; peer's side in the head",
        f"{'':<53}" + "".join(f"{peer.value.rpartition(' ')[2]:>12}" for peer in Peer),
    ]
    for suite in SUITES:
        marks = "".join(f"{_mark(Cell(suite, peer), passed):>12}" for peer in Peer)
        lines.append(f"{suite.version.label} {suite.name:<45}{marks}")
    reasons = sorted({f"- = left out: {reason}" for reason in LEFT_OUT.values()})
    return "\n".join([*lines, *reasons, f"{len(passed)} of {len(CELLS)} cells ok", ""])


def _mark(cell: Cell, passed: set[Cell]) -> str:
    if (cell.peer, cell.suite) in LEFT_OUT:
        return "-"
    return "ok" if cell in passed else "?"


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """Collect the table; it ends up in $TLSIFY_SCRATCH, if that is set."""
    collected = Results()
    yield collected
    if scratch := os.environ.get("TLSIFY_SCRATCH"):
        name = os.environ.get("TLSIFY_GUEST", "host")
        Path(scratch, f"interop-{name}.txt").write_text(collected.report())
