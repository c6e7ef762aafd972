"""Report: what this host offloads, and why not the rest."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion
from tlsify.errors import ConfigError, KtlsUnavailable, ReasonCode
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.advisories import true_version
from tlsify.ktls.diag import socket_info, tls_features
from tlsify.ktls.probe import Capabilities, capabilities, loopback_pair
from tlsify.ktls.ulp import LOAD_MODULE
from tlsify.status.sockets import is_offloaded, survey
from tlsify.system import sandbox
from tlsify.system.os_errors import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlsify.status.sockets import Connection

_CRYPTO = Path("/proc/crypto")
_UID_MAP = Path("/proc/self/uid_map")
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"), Path("/run/systemd/container"))
_MODULES = Path("/lib/modules")
_WHOLE_UID_RANGE = 2**32 - 1
_IPPROTO_MPTCP = getattr(socket, "IPPROTO_MPTCP", 262)
# Parts of driver names that stand for AES instructions: x86, ARM, POWER, s390, RISC-V.
_ACCELERATED = ("aesni", "vaes", "-ce", "neon", "p8_", "p10", "s390", "riscv", "zvk")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        code: short and stable; the reason's code where something is missing.
        subject: of the test.
        ok: whether it works; None for information, about which nothing has to be done.
        detail: the result.
        remedy: what would change it; None where nothing needs to.
        blocking: whether nothing can be offloaded without it.
    """

    code: str
    subject: str
    ok: bool | None
    detail: str
    remedy: str | None = None
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found out.

    Attributes:
        usable: whether TLS 1.3 with AES-GCM is offloaded in both directions.
        findings: in the order in which they matter.
    """

    usable: bool
    findings: tuple[Finding, ...]


def examine() -> Report:
    """Try everything on loopback connections, and explain each failure."""
    found = capabilities()
    usable = not found.advisories and found.offloads(CipherSuite.TLS_AES_128_GCM_SHA256)
    return Report(usable, tuple(_findings(found)))


def _findings(found: Capabilities) -> Iterator[Finding]:
    yield _kernel(found)
    yield _ulp(found)
    if found.refusal is None:
        yield from _suites(found)
        yield _rekey(found)
        yield _payload_limit(found)
        yield _aes_driver()
        diag = _diag()
        yield diag
        yield _in_use(visible=diag.ok is True)
        yield _mptcp()
    yield _devices(encrypts=found.refusal is None)
    yield _sandbox()


def _sandbox() -> Finding:
    missing = sandbox.refusal()
    if missing is None:
        detail = f"Landlock ABI {sandbox.abi()} confines servers' workers"
        return Finding("sandbox", "sandbox", ok=True, detail=detail)
    return Finding(
        "sandbox",
        "sandbox",
        ok=False,
        detail=f"workers reach all that their user may: {missing}",
        remedy='have "landlock" among the LSMs (lsm= on the kernel\'s command line)',
    )


def _kernel(found: Capabilities) -> Finding:
    uname = os.uname()
    numbers = true_version(uname.release, uname.version)
    true = ".".join(map(str, numbers)) if numbers else "vendor's own numbering"
    detail = f"{uname.sysname} {uname.release} ({true})"
    if found.advisories:
        names = "; ".join(f"{a.cve}: {a.effect}" for a in found.advisories)
        return Finding(
            ReasonCode.KNOWN_BAD_KERNEL,
            "kernel",
            ok=False,
            detail=f"{detail} has {names}",
            remedy="update the kernel, or accept the risk with --ktls-any-kernel",
            blocking=True,
        )
    return Finding("kernel", "kernel", ok=None, detail=detail)


def _ulp(found: Capabilities) -> Finding:
    if found.refusal is None:
        return Finding("tls-ulp", "tls ULP", ok=True, detail="the kernel has it")
    number, code, sentence, remedy = found.refusal
    if number == errno.ENOENT:
        code, sentence, remedy = _explain_missing_ulp()
    return Finding(code, "tls ULP", ok=False, detail=sentence, remedy=remedy, blocking=True)


def _explain_missing_ulp() -> tuple[str, str, str]:
    """Distinguish a kernel without kTLS from a module that this process may not load."""
    if _in_container():
        return (
            ReasonCode.NO_TLS_ULP_CONTAINER,
            "the tls module is not loaded, and a container cannot load it",
            f"on the host, {LOAD_MODULE}",
        )
    folder = _MODULES / os.uname().release
    if not folder.is_dir():
        return (
            ReasonCode.NO_TLS_ULP,
            "this kernel has no tls ULP, and no modules are installed for it",
            "install this kernel's modules, or boot a kernel built with CONFIG_TLS",
        )
    if any(folder.glob("kernel/net/tls/tls.ko*")):
        return (
            ReasonCode.TLS_MODULE_NOT_LOADED,
            "the tls module is not loaded, and this user may not load it",
            LOAD_MODULE,
        )
    return (
        ReasonCode.NO_TLS_MODULE,
        "this kernel was built without CONFIG_TLS, or its tls module is not installed",
        "boot a distribution's kernel; those of Debian, Fedora and Ubuntu have it",
    )


def _in_container() -> bool:
    """Return whether this is a container, by its marks or a user namespace not the first."""
    if any(mark.exists() for mark in _CONTAINER_MARKS):
        return True
    try:
        first, outside, length = _UID_MAP.read_text("ascii").split()[:3]
    except (OSError, ValueError):
        return False
    return (int(first), int(outside), int(length)) != (0, 0, _WHOLE_UID_RANGE)


def _suites(found: Capabilities) -> Iterator[Finding]:
    for version in sorted(ProtocolVersion, reverse=True):
        for aead in Aead:
            missing = [d for d in Direction if (version, aead, d) not in found.supported]
            subject = f"{version.label} {aead.value}"
            if not missing:
                yield Finding("suite", subject, ok=True, detail="TX and RX")
                continue
            yield Finding(
                ReasonCode.SUITE_UNSUPPORTED,
                subject,
                ok=False if aead in _EXPECTED else None,
                detail=f"the kernel refuses {' and '.join(d.value for d in missing)}",
                remedy=_CRYPTO_REMEDY[aead],
            )


# Without these hardly any peer's connection is offloaded.
_EXPECTED = {Aead.AES_GCM_128, Aead.AES_GCM_256}
_CRYPTO_REMEDY = {
    Aead.AES_GCM_128: "load or build the kernel's gcm and aes modules",
    Aead.AES_GCM_256: "load or build the kernel's gcm and aes modules",
    Aead.AES_CCM_128: "load or build the kernel's ccm and aes modules",
    Aead.CHACHA20_POLY1305: "load or build the kernel's chacha20poly1305 module (Linux 5.11)",
}


def _rekey(found: Capabilities) -> Finding:
    if found.rekey:
        return Finding(
            "rekey",
            "TLS 1.3 KeyUpdate",
            ok=True,
            detail="the kernel can change keys: a peer's KeyUpdate is followed",
        )
    return Finding(
        ReasonCode.NO_REKEY,
        "TLS 1.3 KeyUpdate",
        ok=None,
        detail="the kernel cannot rekey: a peer's KeyUpdate ends the connection",
        remedy="relay TLS 1.3 with --ktls-rekey=require if peers update their keys",
    )


def _payload_limit(found: Capabilities) -> Finding:
    if found.payload_limit:
        return Finding(
            "payload-limit", "short records", ok=True, detail="the kernel can limit records"
        )
    return Finding(
        ReasonCode.MAX_FRAGMENT_LENGTH,
        "short records",
        ok=None,
        detail="peers that ask for them (max_fragment_length) are relayed",
        remedy="use Linux 6.19 or later",
    )


def aes_gcm_driver() -> str:
    """Name the kernel's best driver for AES-GCM; empty if none is registered."""
    best, best_priority = "", -1
    try:
        blocks = _CRYPTO.read_text("ascii").split("\n\n")
    except OSError:
        return ""
    for block in blocks:
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
        if fields.get("name") == "gcm(aes)" and fields.get("internal") != "yes":
            priority = int(fields.get("priority", 0))
            if priority > best_priority:
                best, best_priority = fields["driver"], priority
    return best


def _aes_driver() -> Finding:
    driver = aes_gcm_driver()
    if any(part in driver for part in _ACCELERATED):
        return Finding("aes-driver", "AES-GCM driver", ok=True, detail=driver)
    return Finding(
        "aes-unaccelerated",
        "AES-GCM driver",
        ok=False,
        detail=f"{driver or 'none registered'}: without the processor's AES instructions",
        remedy='as root, run "modprobe aesni_intel" (x86) or "modprobe aes_ce_blk" (ARM)',
    )


def _diag() -> Finding:
    with loopback_pair() as (sock, _):
        try:
            ulp.attach(sock)
            seen = socket_info(sock).ulp
        except (OSError, KtlsUnavailable, ConfigError) as exc:
            seen, why = None, str(exc)
        else:
            why = "needs CAP_NET_ADMIN before Linux 6.15"
    if seen is not None and seen.name == "tls":
        return Finding("ulp-diag", "socket status", ok=True, detail="sock_diag shows the ULP")
    return Finding(
        "ulp-diag-unprivileged",
        "socket status",
        ok=None,
        detail=f"sock_diag does not show the ULP: {why}",
        remedy="run the status commands as root",
    )


def _mptcp() -> Finding:
    """Multipath TCP sockets have a ULP of their own; only some listeners make them."""
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP)
    except OSError:
        return Finding("mptcp", "MPTCP", ok=None, detail="not used on this host")
    with closing(listener):
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP)) as peer:
            peer.connect(listener.getsockname())
            accepted, _ = listener.accept()
            with closing(accepted):
                try:
                    ulp.attach(accepted)
                except (KtlsUnavailable, ConfigError):
                    return Finding(
                        ReasonCode.MPTCP,
                        "MPTCP",
                        ok=None,
                        detail="sockets of MPTCP listeners are relayed; tlsify's own are TCP",
                    )
    return Finding("mptcp", "MPTCP", ok=True, detail="its sockets take the ULP")


def _in_use(*, visible: bool) -> Finding:
    """Report the processes whose connections the kernel protects right now."""
    subject = "connections offloaded now"
    if not visible:
        return Finding("in-use", subject, ok=None, detail="unknown: sock_diag hides them")
    holders = Counter(_holder(each) for each in survey().sockets if is_offloaded(each))
    detail = ", ".join(f"{name}: {number}" for name, number in holders.most_common())
    return Finding("in-use", subject, ok=None, detail=detail or "none")


def _holder(connection: Connection) -> str:
    if not connection.processes:
        return "of other users" if connection.inode else "closed, still sending"
    first = connection.processes[0]
    return f"{first.command} ({first.pid})"


def _devices(*, encrypts: bool) -> Finding:
    try:
        devices = tls_features()
    except (OSError, ConfigError) as exc:
        why = explain(exc) if isinstance(exc, OSError) else exc
        return Finding("nic", "NIC offload", ok=None, detail=f"unknown: {why}")
    if not devices:
        detail = "no network interface offers it"
        if encrypts:
            detail += "; the kernel encrypts in software"
        return Finding("nic", "NIC offload", ok=None, detail=detail)
    return Finding("nic", "NIC offload", ok=True, detail="; ".join(map(str, devices)))
