"""Every kTLS socket of this network namespace, with the processes that hold it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tlsify.ktls.diag import SocketEntry, list_sockets, tls_stat

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from tlsify.codepoints import Aead, ProtocolVersion
    from tlsify.ktls.diag import Traffic

_PROC = Path("/proc")
# net/tls/tls_main.c: how many keys are in use; the other counters only grow.
IN_USE = ("TlsCurrTxSw", "TlsCurrRxSw", "TlsCurrTxDevice", "TlsCurrRxDevice")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds a socket.

    Attributes:
        pid: as this process's /proc numbers it.
        command: its name, at most 15 bytes; whatever it chose.
    """

    pid: int
    command: str


class KtlsSocket(NamedTuple):
    """A connection with the tls ULP.

    Attributes:
        local: address and port.
        peer: address and port.
        inode: 0 for a socket that every process has closed.
        uid: owner.
        user: the owner's name; the number where it has none.
        processes: whoever holds it, by pid; empty if that is nobody, or cannot be seen.
        version: None before a key is installed.
        cipher: None before a key is installed, or for one that tlsify does not know.
        tx: "none", "kernel" or "device".
        rx: likewise.
        traffic: None if the kernel does not say.
    """

    local: tuple[str, int]
    peer: tuple[str, int]
    inode: int
    uid: int
    user: str
    processes: tuple[Process, ...]
    version: ProtocolVersion | None
    cipher: Aead | None
    tx: str
    rx: str
    traffic: Traffic | None


@dataclass(frozen=True, slots=True)
class Unseen:
    """Something that this process may not see.

    Attributes:
        code: short and stable.
        detail: what it is.
        remedy: what would show it.
    """

    code: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen, and what was not.

    Attributes:
        available: whether this kernel has the tls module, and has it loaded.
        sockets: by local address, then by peer.
        counters: /proc/net/tls_stat.
        unseen: empty if nothing was kept from us.
    """

    available: bool
    sockets: tuple[KtlsSocket, ...]
    counters: Mapping[str, int]
    unseen: tuple[Unseen, ...]


def survey(*, find_processes: bool = True) -> Survey:
    """Look at all of this network namespace's connections.

    Args:
        find_processes: also look into every process, for who holds them.

    Raises:
        OSError: the kernel has no sock_diag, or a policy forbids it.
    """
    counters = tls_stat()
    if not counters:
        return Survey(available=False, sockets=(), counters={}, unseen=())
    entries = [
        entry
        for family in (socket.AF_INET, socket.AF_INET6)
        for entry in list_sockets(family)
        if entry.ulp is not None and entry.ulp.name == "tls"
    ]
    holders: dict[int, list[Process]] = {}
    if find_processes:
        holders = find_holders({entry.inode for entry in entries} - {0})
    sockets = join(entries, holders)
    unseen = []
    if not entries and (keys := sum(counters.get(name, 0) for name in IN_USE)):
        unseen.append(
            Unseen(
                "sockets",
                f"the kernel counts {keys} keys in use, and shows none of the sockets",
                "run it as root, or with CAP_NET_ADMIN; Linux 6.15 shows them to everybody",
            )
        )
    if find_processes and (
        without := sum(1 for each in sockets if each.inode and not each.processes)
    ):
        unseen.append(
            Unseen(
                "processes",
                f"who holds {without} of the sockets",
                "run it as root, outside of any container",
            )
        )
    return Survey(available=True, sockets=sockets, counters=counters, unseen=tuple(unseen))


def join(
    entries: Iterable[SocketEntry], holders: Mapping[int, Iterable[Process]]
) -> tuple[KtlsSocket, ...]:
    """Put together what the kernel says of sockets and what /proc says of processes.

    Args:
        entries: of sockets with the tls ULP.
        holders: by inode.
    """
    joined = [
        KtlsSocket(
            local=entry.local,
            peer=entry.remote,
            inode=entry.inode,
            uid=entry.uid,
            user=_user(entry.uid),
            processes=tuple(holders.get(entry.inode, ())),
            version=ulp.version,
            cipher=ulp.cipher,
            tx=ulp.tx,
            rx=ulp.rx,
            traffic=entry.traffic,
        )
        for entry in entries
        if (ulp := entry.ulp) is not None
    ]
    return tuple(sorted(joined, key=lambda each: (each.local, each.peer)))


def find_holders(inodes: Collection[int]) -> dict[int, list[Process]]:
    """Tell which processes hold some sockets; those that we may not look into hold none.

    It reads every descriptor's link once, and nothing else: psutil's net_connections takes the
    kernel's list of all sockets apart for each process's.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[Process]] = {}
    if not wanted:
        return found
    for name in sorted(filter(str.isdecimal, os.listdir(_PROC)), key=int):  # noqa: PTH208 - names
        held = _held(name, wanted)
        if held:
            process = Process(int(name), _command(name))
            for inode in held:
                found.setdefault(inode, []).append(process)
    return found


def _held(pid: str, wanted: Mapping[str, int]) -> set[int]:
    held = set()
    with suppress(OSError):  # it has ended, or is somebody else's
        folder = os.open(_PROC / pid / "fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for number in os.listdir(folder):  # noqa: PTH208 - Path knows no descriptors
                with suppress(OSError):  # closed since
                    inode = wanted.get(os.readlink(number, dir_fd=folder))
                    if inode is not None:
                        held.add(inode)
        finally:
            os.close(folder)
    return held


def _command(pid: str) -> str:
    try:
        name = (_PROC / pid / "comm").read_bytes()
    except OSError:
        return ""
    return name.removesuffix(b"\n").decode("utf-8", "backslashreplace")


@cache
def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415 - not on a connection's way

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
