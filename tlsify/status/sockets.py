"""Every TLS connection of this network namespace that the kernel or tlsify reports."""

from __future__ import annotations

import pwd
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from tlsify.codepoints import CipherSuite
from tlsify.connection.handoff import Offload
from tlsify.ktls.diag import SocketEntry, list_sockets, tls_features, tls_stat
from tlsify.status import census
from tlsify.status.holders import Process, command, find_holders

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from tlsify.codepoints import Aead, ProtocolVersion
    from tlsify.ktls.diag import Device, Pairs, Traffic, UlpInfo
    from tlsify.status.census import Census
    from tlsify.status.entries import Address, Entry
    from tlsify.status.hearing import Owners, Roster
    from tlsify.system.sandbox import Restraint

    Identity = tuple[Address, Address, int]
    # By socket: bytes a second, sent and received.
    Rates = Mapping[Identity, tuple[float, float]]
    # By local address and peer's.
    Listed = Mapping[tuple[Address, Address], tuple[Roster, Entry]]

_TLS = "tls"
_NAMED_USERS = 3
RELAYED = "relay"
# net/tls/tls_main.c: keys in use; the other counters only grow.
IN_USE = ("TlsCurrTxSw", "TlsCurrRxSw", "TlsCurrTxDevice", "TlsCurrRxDevice")


class Connection(NamedTuple):
    """A TCP connection that has the tls ULP, or that a process of tlsify's relays.

    Attributes:
        local: address and port.
        peer: address and port.
        inode: 0 for a socket that every process has closed.
        uid: owner.
        user: the owner's name; the number where it has none.
        processes: its holders, by pid, or only the one that lists it; empty if there is
            none, or none can be seen.
        version: None before a key is installed.
        cipher: None before a key is installed, or for one that tlsify does not know.
        tx: "none", "kernel", "device" or "relay".
        rx: likewise.
        traffic: None if the kernel does not say.
        entry: row of the tlsify process that carries it; None if there is none.
        restraint: what that process says it can no longer do; likewise.
    """

    local: Address
    peer: Address
    inode: int
    uid: int
    user: str
    processes: tuple[Process, ...]
    version: ProtocolVersion | None
    cipher: Aead | None
    tx: str
    rx: str
    traffic: Traffic | None
    entry: Entry | None = None
    restraint: Restraint | None = None

    @property
    def identity(self) -> Identity:
        """Identity among all connections, earlier ones included."""
        return self.local, self.peer, self.inode


@dataclass(frozen=True, slots=True)
class Unseen:
    """Something that this process may not see.

    Attributes:
        code: short and stable.
        detail: its description.
        remedy: what would show it.
    """

    code: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Fallback:
    """Reason why some connections are relayed.

    Attributes:
        code: short and stable, such as "no-tls-ulp".
        sentence: the same in words.
        hint: what would change it, or None.
        connections: their number.
    """

    code: str
    sentence: str
    hint: str | None
    connections: int


@dataclass(frozen=True, slots=True)
class Survey:
    """A report of connections, with its gaps.

    Attributes:
        available: whether this kernel has the tls module, and has it loaded.
        sockets: by local address, then by peer.
        counters: /proc/net/tls_stat.
        unseen: empty if nothing was kept from us.
        devices: network interfaces that can protect records; None if they were not asked for.
    """

    available: bool
    sockets: tuple[Connection, ...]
    counters: Mapping[str, int]
    unseen: tuple[Unseen, ...]
    devices: tuple[Device, ...] | None = None

    def fallbacks(self) -> list[Fallback]:
        """Count why connections are relayed, the most frequent reason first."""
        counts = Counter(
            each.entry.reason
            for each in self.sockets
            if each.entry is not None and each.entry.reason is not None
        )
        return [Fallback(*reason, count) for reason, count in counts.most_common()]


def survey(*, find_processes: bool = True, find_devices: bool = False) -> Survey:
    """Survey all TLS connections of this network namespace.

    Args:
        find_processes: also inspect every process for the holders.
        find_devices: also ask every network interface, which takes a quarter of a second.

    Raises:
        OSError: the kernel has no sock_diag, or a policy forbids it.
    """
    counters, found = tls_stat(), list[SocketEntry]()

    def owners() -> Owners:
        with suppress(OSError):  # then no other user is believed
            found.extend(_list_all(None))
        return {(each.local, each.remote): each.uid for each in found}

    told, entries = census.ask(owners=owners), []
    listed = _listed(told)
    if counters or listed:
        entries = [
            each
            for each in found or _list_all(listed)
            if _is_tls(each) or (each.local, each.remote) in listed
        ]
    holders, cut = dict[int, list[Process]](), set[int]()
    if find_processes:
        # The process that lists a connection holds it: no slow search is needed.
        unclear = (e for e in entries if (by := _teller(e, listed)) is None or not by[0].pid)
        holders, cut = find_holders({each.inode: each.uid for each in unclear if each.inode})
    sockets = join(entries, holders, listed)
    unseen = list(_unseen_rosters(told))
    if cut:
        detail = f"some sockets of processes of {_names(cut)}: too many descriptors"
        unseen.append(Unseen("descriptors", detail, "check these users' processes"))
    keys = sum(counters.get(name, 0) for name in IN_USE)
    if keys and not any(map(_is_tls, entries)):
        unseen.append(
            Unseen(
                "sockets",
                f"the kernel counts {keys} keys in use, and shows none of the sockets",
                "run it as root, or with CAP_NET_ADMIN; Linux 6.15 shows them to every user",
            )
        )
    if find_processes and (
        without := sum(1 for each in sockets if each.inode and not each.processes)
    ):
        unseen.append(
            Unseen(
                "processes",
                f"the processes of {without} of the sockets",
                "run it as root, outside of any container",
            )
        )
    return Survey(
        available=bool(counters),
        sockets=sockets,
        counters=counters,
        unseen=tuple(unseen),
        devices=tuple(tls_features()) if find_devices else None,
    )


def _list_all(asked_for: Pairs | None) -> Iterator[SocketEntry]:
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from list_sockets(family, asked_for)


def _is_tls(entry: SocketEntry) -> bool:
    return entry.ulp is not None and entry.ulp.name == _TLS


def _listed(told: Census) -> Listed:
    return {
        (entry.local, entry.peer): (roster, entry)
        for roster in told.rosters
        for entry in roster.entries
        if entry.local is not None and entry.peer is not None
    }


def _unseen_rosters(told: Census) -> Iterator[Unseen]:
    if told.elsewhere:
        yield Unseen(
            "namespaces",
            f"connections of {told.elsewhere} tlsify processes in other network namespaces",
            "name the namespace with --netns",
        )
    if told.silent:
        yield Unseen(
            "rosters",
            f"connections of {told.silent} tlsify processes that did not answer",
            "check whether they are stopped, or of another version",
        )
    if told.cut:
        what = "too long, or malformed"
        detail = f"parts of the answers of processes of {_names(told.cut)}: {what}"
        yield Unseen("answers", detail, "check these users' processes")
    if told.closed:
        detail = "relayed connections of other users' tlsify processes"
        yield Unseen("users", detail, "run it as root")


def _teller(entry: SocketEntry, listed: Listed) -> tuple[Roster, Entry] | None:
    found = listed.get((entry.local, entry.remote))
    return found if found is not None and found[0].uid in {0, entry.uid} else None


def join(
    entries: Iterable[SocketEntry],
    holders: Mapping[int, Iterable[Process]],
    listed: Listed | None = None,
) -> tuple[Connection, ...]:
    """Combine data from the kernel's sockets, /proc and tlsify's processes.

    Args:
        entries: of sockets that have the tls ULP, or are listed.
        holders: by inode.
        listed: rows of tlsify processes. One that is not root's is believed about its
            user's sockets only.
    """
    carriers: dict[int, tuple[Process, ...]] = {0: ()}
    joined = []
    for entry in entries:
        roster, known = _teller(entry, listed or {}) or (None, None)
        processes = tuple(holders.get(entry.inode, ()))
        if roster is not None and not processes:
            if roster.pid not in carriers:
                carriers[roster.pid] = (Process(roster.pid, command(roster.pid)),)
            processes = carriers[roster.pid]
        if known is not None:
            version, cipher, tx, rx = _as_told(entry.ulp, known)
        elif entry.ulp is not None and entry.ulp.name == _TLS:
            version, cipher, tx, rx = entry.ulp[1:]
        else:
            continue
        joined.append(
            Connection(
                entry.local,
                entry.remote,
                entry.inode,
                entry.uid,
                _user(entry.uid),
                processes,
                version,
                cipher,
                tx,
                rx,
                entry.traffic,
                known,
                None if roster is None else roster.restraint,
            )
        )
    return tuple(sorted(joined, key=itemgetter(0, 1)))


def _as_told(
    ulp: UlpInfo | None, known: Entry
) -> tuple[ProtocolVersion | None, Aead | None, str, str]:
    """Return version, AEAD and carriers, as published if the kernel does not show them."""
    if known.offload == Offload.KERNEL.value and ulp is not None and ulp.name == _TLS:
        return ulp[1:]
    suite = CipherSuite.__members__.get(known.suite)
    mode = "kernel" if known.offload == Offload.KERNEL.value else RELAYED
    if suite is None:
        return None, None, mode, mode
    return suite.version, suite.aead, mode, mode


def rates(before: Survey | None, seen: Survey, elapsed: float) -> Rates:
    """Compare two looks; a socket that is seen for the first time has no rates yet.

    Args:
        before: the earlier one; None if there was none.
        seen: the later one.
        elapsed: seconds between them.
    """
    if before is None:
        return {}
    earlier = {each.identity: each.traffic for each in before.sockets}
    found = {}
    for each in seen.sockets:
        then, now = earlier.get(each.identity), each.traffic
        if then is not None and now is not None and elapsed > 0:
            found[each.identity] = (
                max(now.sent - then.sent, 0) / elapsed,
                max(now.received - then.received, 0) / elapsed,
            )
    return found


def is_offloaded(each: Connection) -> bool:
    """Return whether the kernel, or the NIC, has a key of this connection."""
    return not {each.tx, each.rx} <= {"none", RELAYED}


def _names(users: Collection[int]) -> str:
    named = ", ".join(map(_user, sorted(users)[:_NAMED_USERS]))
    return named if len(users) <= _NAMED_USERS else f"{named} and {len(users) - _NAMED_USERS} more"


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
