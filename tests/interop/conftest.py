"""What the conversations share, and the table that they leave behind."""

from __future__ import annotations

import base64
import gc
import os
import platform
import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.interop.matrix import CELLS, LEFT_OUT, SIZE, SUITES, Cell, Peer
from tests.interop.peers import Identity, Site
from tlsify.connection.handoff import Offload
from tlsify.credentials.key_pair import KeyPair
from tlsify.ktls.probe import capabilities, polls_partial_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.credentials.anchors import TrustAnchors

_LINE = 1000
# Files from this size on are too large for a guest to keep until the next collection comes by.
_LARGE = 2**20
_WIDTH = 12
_SUITE_WIDTH = 53


def _text(seed: int) -> bytes:
    """Make a file of lines: gnutls-serv echoes nothing else, and gnutls-cli sends line by line."""
    text = base64.b64encode(random.Random(seed).randbytes(SIZE))
    lines = (text[start : start + _LINE] for start in range(0, SIZE, _LINE))
    return b"\n".join(lines)[: SIZE - 1] + b"\n"


def _issue(authority: trustme.CA, folder: Path, kind: trustme.KeyType) -> Identity:
    leaf = authority.issue_cert("localhost", "127.0.0.1", key_type=kind)
    chain, key = folder / f"{kind.name}.pem", folder / f"{kind.name}.key"
    leaf.cert_chain_pems[0].write_to_path(chain)
    leaf.private_key_pem.write_to_path(key)
    key.chmod(0o600)
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


@pytest.fixture(autouse=True)
def _forget_files() -> Iterator[None]:
    """Programs and their threads refer to each other, and to the files that they carried."""
    yield
    if SIZE >= _LARGE:
        gc.collect()


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
    title = f"{platform.release()} ({platform.version()}): records by {where}, "
    title += f"files of {SIZE} bytes both ways, SHA-256 equal; in the head: the peer and its side"
    head = "".join(f"{peer.value.rpartition(' ')[2]:>{_WIDTH}}" for peer in Peer)
    lines = [title, f"{'':<{_SUITE_WIDTH}}{head}"]
    for suite in SUITES:
        marks = "".join(f"{_mark(Cell(suite, peer), passed):>{_WIDTH}}" for peer in Peer)
        lines.append(f"{f'{suite.version.label} {suite.name}':<{_SUITE_WIDTH}}{marks}")
    if any("?" in line for line in lines):
        lines.append("? = failed, or not run")
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
