"""Read back: INET_DIAG ULP info, /proc/net/tls_stat, NIC features."""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from sys import byteorder
from typing import TYPE_CHECKING, Any, NamedTuple

from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.errors import ConfigError, said
from tlsify.ktls import uapi
from tlsify.ktls.crypto_info import LAYOUT
from tlsify.system import libc

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    # Of local and remote address.
    Pairs = Container[tuple[tuple[str, int], tuple[str, int]]]

TLS_STAT = Path("/proc/net/tls_stat")

# The third is the kernel's own name for NICs that make whole records (TLS_HW_RECORD).
TLS_FEATURES = ("tls-hw-tx-offload", "tls-hw-rx-offload", "tls-hw-record")

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 1
_NLM_F_DUMP = 0x300
_NLA_TYPE_MASK = 0x3FFF
_INET_DIAG_INFO = 2
_INET_DIAG_ULP_INFO = 19
_INET_ULP_INFO_NAME = 1
_INET_ULP_INFO_TLS = 2
_TCP_ESTABLISHED_STATES = 0x1F2  # 1 << state: ESTABLISHED, FIN_WAIT*, CLOSE_WAIT, LAST_ACK
_NO_COOKIE = 0xFFFFFFFF
_NLMSG = struct.Struct("=IHHII")
_NLA = struct.Struct("=HH")
_REQUEST_HEAD = struct.Struct("=BBBxI")
_SOCKET_ID = struct.Struct("!HH16s16s")
_SOCKET_ID_TAIL = struct.Struct("=III")
# struct inet_diag_msg: family, ports, addresses, uid, inode.
_MESSAGE = struct.Struct("=B3x2s2s16s16s24xII")
_RECEIVE_SIZE = 2**18
_CLONE_NEWNET = 0x40000000  # linux/sched.h
# struct tcp_info: milliseconds since data was sent and received; bytes acknowledged and received;
# bytes sent, since Linux 4.19.
_TCP_INFO = struct.Struct("=44xI4xI64xQQ64xQ")

_MODES = {
    uapi.TLS_CONF_BASE: "none",
    uapi.TLS_CONF_SW: "kernel",
    uapi.TLS_CONF_HW: "device",
}
_AEADS = {layout.cipher_type: aead for aead, layout in LAYOUT.items()}
_VERSIONS = {int(version): version for version in ProtocolVersion}


class UlpInfo(NamedTuple):
    """The kernel's data of one socket's ULP.

    Attributes:
        name: "tls", "mptcp", ...; empty for a socket without ULP.
        version: None before a key is installed.
        cipher: None before a key is installed, or for one that tlsify does not know.
        tx: "none", "kernel" (software) or "device" (NIC).
        rx: likewise.
    """

    name: str
    version: ProtocolVersion | None = None
    cipher: Aead | None = None
    tx: str = "none"
    rx: str = "none"


class Traffic(NamedTuple):
    """TCP's counts for one socket since it was connected, with the overhead of records.

    Attributes:
        sent: bytes, those sent again included.
        acknowledged: bytes that the peer's TCP has.
        received: bytes.
        idle: seconds since data last went either way.
    """

    sent: int
    acknowledged: int
    received: int
    idle: float


class SocketEntry(NamedTuple):
    """One TCP socket of this network namespace.

    Attributes:
        local: address and port.
        remote: address and port.
        inode: joins the socket to the processes that hold it.
        uid: owner.
        ulp: None where the kernel keeps it from unprivileged callers (before 6.15), or has none.
        traffic: of sockets whose ULP is known, and of those that were asked for.
    """

    local: tuple[str, int]
    remote: tuple[str, int]
    inode: int
    uid: int
    ulp: UlpInfo | None
    traffic: Traffic | None = None


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    """Parse netlink attributes: type and value of each, up to the first malformed one."""
    found, position, end = [], 0, len(data) - _NLA.size
    while position <= end:
        length, kind = _NLA.unpack_from(data, position)
        if length < _NLA.size:
            break
        found.append((kind & _NLA_TYPE_MASK, data[position + _NLA.size : position + length]))
        position += (length + 3) & ~3
    return found


@lru_cache(256)  # thousands of sockets have the same to say
def parse_ulp(nest: bytes) -> UlpInfo:
    """Parse the attribute INET_DIAG_ULP_INFO (net/tls/tls_main.c tls_get_info)."""
    name, numbers = "", {}
    for kind, value in attributes(nest):
        if kind == _INET_ULP_INFO_NAME:
            name = value.rstrip(b"\0").decode("ascii", "replace")
        elif kind == _INET_ULP_INFO_TLS:
            numbers = {k: int.from_bytes(v[:2], byteorder) for k, v in attributes(value)}
    return UlpInfo(
        name=name,
        version=_VERSIONS.get(numbers.get(uapi.TLS_INFO_VERSION, 0)),
        cipher=_AEADS.get(numbers.get(uapi.TLS_INFO_CIPHER, 0)),
        tx=_MODES.get(numbers.get(uapi.TLS_INFO_TXCONF, 0), "none"),
        rx=_MODES.get(numbers.get(uapi.TLS_INFO_RXCONF, 0), "none"),
    )


def parse_traffic(info: bytes) -> Traffic | None:
    """Parse a struct tcp_info; return None if it is shorter than the fields needed."""
    if len(info) < _TCP_INFO.size:
        return None
    last_sent, last_received, acknowledged, received, sent = _TCP_INFO.unpack_from(info)
    return Traffic(sent, acknowledged, received, min(last_sent, last_received) / 1000)


def parse_entry(message: bytes, asked_for: Pairs | None = ()) -> SocketEntry:
    """Parse a struct inet_diag_msg with its attributes; `asked_for` is that of `list_sockets`."""
    family, sport, dport, source, destination, uid, inode = _MESSAGE.unpack_from(message)
    local = (_spell(family, source), int.from_bytes(sport))
    remote = (_spell(family, destination), int.from_bytes(dport))
    ulp, info = None, b""
    # As `attributes`, without parsing the many that are not wanted: there are 70,000 in a list
    # of 10,000 sockets.
    position, end = _MESSAGE.size, len(message) - _NLA.size
    while position <= end:
        length, kind = _NLA.unpack_from(message, position)
        if length < _NLA.size:
            break
        kind &= _NLA_TYPE_MASK
        if kind == _INET_DIAG_INFO:
            info = message[position + _NLA.size : position + length]
        elif kind == _INET_DIAG_ULP_INFO:
            ulp = parse_ulp(message[position + _NLA.size : position + length])
        position += (length + 3) & ~3
    wanted = ulp is not None or asked_for is None or (local, remote) in asked_for
    traffic = parse_traffic(info) if wanted else None
    return SocketEntry(local, remote, inode, uid, ulp, traffic)


@lru_cache(4096)  # a server's own addresses are few, and its peers' come again
def _spell(family: int, address: bytes) -> str:
    return socket.inet_ntop(family, address[:4] if family == socket.AF_INET else address)


def _request(family: int, flags: int, socket_id: bytes) -> bytes:
    head = _REQUEST_HEAD.pack(
        family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _TCP_ESTABLISHED_STATES
    )
    body = head + socket_id
    length = _NLMSG.size + len(body)
    return _NLMSG.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, 1, 0) + body


def _ask(request: bytes, *, dump: bool, asked_for: Pairs | None = ()) -> Iterator[SocketEntry]:
    with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)) as netlink:
        netlink.send(request)
        while True:
            data = netlink.recv(_RECEIVE_SIZE)
            position = 0
            while position + _NLMSG.size <= len(data):
                length, kind, *_ = _NLMSG.unpack_from(data, position)
                body = data[position + _NLMSG.size : position + length]
                if length < _NLMSG.size:
                    raise OSError(errno.EBADMSG, "sock_diag: message cut short")
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -int.from_bytes(body[:4], byteorder, signed=True)
                    raise OSError(number, "sock_diag")
                yield parse_entry(body, asked_for)
                if not dump:
                    return
                position += (length + 3) & ~3


def list_sockets(family: int, asked_for: Pairs | None = ()) -> Iterator[SocketEntry]:
    """List the connected TCP sockets of this network namespace.

    Args:
        family: AF_INET or AF_INET6.
        asked_for: sockets for which traffic is wanted even without a ULP; None for all.

    Raises:
        OSError: the kernel has no sock_diag, or a policy forbids it.

    Source: linux/inet_diag.h.
    """
    every = _SOCKET_ID.pack(0, 0, b"", b"") + _SOCKET_ID_TAIL.pack(0, _NO_COOKIE, _NO_COOKIE)
    yield from _ask(_request(family, _NLM_F_DUMP, every), dump=True, asked_for=asked_for)


def socket_info(sock: socket.socket) -> SocketEntry:
    """Ask the kernel about one connected TCP socket.

    Raises:
        OSError: the socket is not connected, or sock_diag is not to be had.
    """
    family = sock.family
    local, remote = sock.getsockname(), sock.getpeername()
    socket_id = _SOCKET_ID.pack(
        local[1],
        remote[1],
        socket.inet_pton(family, local[0].partition("%")[0]),
        socket.inet_pton(family, remote[0].partition("%")[0]),
    ) + _SOCKET_ID_TAIL.pack(0, _NO_COOKIE, _NO_COOKIE)
    return next(_ask(_request(family, 0, socket_id), dump=False))


def tls_stat() -> dict[str, int]:
    """Read this network namespace's counters; empty while the tls module is not loaded.

    Source: net/tls/tls_proc.c; Documentation/networking/tls.rst, Statistics.
    """
    try:
        lines = TLS_STAT.read_text("ascii").splitlines()
    except OSError:
        return {}
    return {name: int(count) for name, count in (line.split() for line in lines)}


def enter_network(name: str) -> None:
    """Move this process into another network namespace: what the kernel lists is there from now on.

    Args:
        name: of the namespace, as ip-netns(8) knows it, or the PID of a process that is in it.

    Raises:
        ConfigError: there is no such namespace, or only root may enter it.
    """
    place = f"/proc/{name}/ns/net" if name.isdecimal() else f"/run/netns/{name}"
    try:
        with open(place, "rb") as namespace:
            libc.call("setns", namespace.fileno(), _CLONE_NEWNET)
    except (OSError, ValueError) as exc:
        reason = said(exc) if isinstance(exc, OSError) else "no such name"
        raise ConfigError(
            f"cannot enter the network namespace {name}: {reason}",
            hint="as root, name one of those that `ip netns` lists, or a process's PID",
        ) from exc


class Device(NamedTuple):
    """A network interface that can protect TLS records.

    Attributes:
        name: of the interface.
        features: what ethtool(8) calls them -> "on"; "off", which can be changed; or "none".
    """

    name: str
    features: dict[str, str]

    def __str__(self) -> str:
        """Leave out what it has not."""
        had = (f"{key} {state}" for key, state in self.features.items() if state != "none")
        return f"{self.name}: {', '.join(had)}"


def tls_features() -> list[Device]:
    """Return the TLS features of every network interface that has some.

    Raises:
        ConfigError: pyroute2 is not installed.

    Source: net/ethtool/common.c netdev_features_strings.
    """
    # Its import takes a quarter of a second, and few ask.
    try:
        from pyroute2.ethtool import Ethtool  # noqa: PLC0415 - see above
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"the package {exc.name} is not installed", hint="pip install pyroute2"
        ) from exc
    devices = []
    with closing(Ethtool()) as ethtool:
        for _, name in socket.if_nameindex():
            try:
                found = ethtool.get_features(name).features
            except OSError:
                continue
            features = {each: feature(found.get(each)) for each in TLS_FEATURES}
            if set(features.values()) != {"none"}:
                devices.append(Device(name, features))
    return devices


def feature(found: Any) -> str:
    """Return a feature's state in words (`Device`)."""
    if found is None or not (found.enable or found.available):
        return "none"
    return "on" if found.enable else "off"
