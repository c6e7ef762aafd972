"""Tests of host."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.doubles import KERNEL, Lab
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.keys import Direction
from tlsify.ktls import probe, ulp
from tlsify.ktls.advisories import ADVISORIES
from tlsify.ktls.diag import Device, UlpInfo, socket_info
from tlsify.ktls.probe import Capabilities, Refusal, capabilities
from tlsify.status import host
from tlsify.status.holders import Process
from tlsify.status.sockets import Connection

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.each_kernel


ABLE = Capabilities(
    refusal=None,
    supported=frozenset((v, a, d) for v in ProtocolVersion for a in Aead for d in Direction),
    rekey=True,
    payload_limit=True,
    advisories=(),
)
BLIND = dataclasses.replace(
    ABLE,
    refusal=Refusal(errno.ENOENT, "no-tls-ulp", "none", None),
    supported=frozenset(),
    rekey=False,
    payload_limit=False,
)
UNACCELERATED = """\
name         : gcm(aes)
driver       : gcm_base(ctr-generic,ghash-generic)
priority     : 100
internal     : no
"""
INTERNAL = """\
name         : gcm(aes)
driver       : __generic-gcm-aesni
priority     : 500
internal     : yes
"""
ACCELERATED = """\
name         : gcm(aes)
driver       : generic-gcm-aesni-avx
priority     : 400
internal     : no
"""


def report(found: Capabilities, monkeypatch: pytest.MonkeyPatch) -> dict[str, host.Finding]:
    """Examine a host of these capabilities; give the findings by subject."""
    monkeypatch.setattr(host, "capabilities", lambda: found)
    return {finding.subject: finding for finding in host.examine().findings}


@pytest.mark.skipif(capabilities().refusal is None, reason="this kernel has kTLS")
def test_host_without_ktls() -> None:
    """Not usable, and the one blocking finding says what would change it."""
    examined = host.examine()
    assert not examined.usable
    blocking = [finding for finding in examined.findings if finding.blocking]
    assert [finding.subject for finding in blocking] == ["tls ULP"]
    assert blocking[0].remedy
    assert not any(finding.code == "suite" for finding in examined.findings)


@pytest.mark.ktls
def test_host_with_ktls() -> None:
    """Usable; every suite, the ULP and sock_diag are there, and nothing blocks."""
    examined = host.examine()
    assert examined.usable
    assert not any(finding.blocking for finding in examined.findings)
    found = {finding.subject: finding for finding in examined.findings}
    assert found["tls ULP"].ok
    assert found["socket status"].ok
    assert found["connections offloaded now"].detail == "none"
    for version in ProtocolVersion:
        for aead in Aead:
            assert found[f"{version.label} {aead.value}"].ok
    assert found["TLS 1.3 KeyUpdate"].ok is (capabilities().rekey or None)
    assert found["MPTCP"].code == "mptcp"


@pytest.mark.ktls
def test_connections_in_use(lab: Lab) -> None:
    """Both ends of an offloaded connection are this process's."""
    lab.pair(KERNEL)
    detail = host._in_use(visible=True).detail
    assert detail.endswith(f"({os.getpid()}): 2")


def test_who_holds_connections() -> None:
    """The first process is named; a socket may have none, or none that we see."""
    here, there = ("192.0.2.1", 443), ("192.0.2.7", 50000)
    unheld = Connection(here, there, 5, 0, "root", (), None, None, "kernel", "none", None)
    held = unheld._replace(processes=(Process(17, "nginx"), Process(18, "nginx")))
    assert host._holder(held) == "nginx (17)"
    assert host._holder(unheld) == "of other users"
    assert host._holder(unheld._replace(inode=0)) == "closed, still sending"


def test_connections_that_are_hidden() -> None:
    """Without a look at the sockets nothing is claimed."""
    assert host._in_use(visible=False).detail.startswith("unknown")


def test_able_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel can do is listed as such."""
    found = report(ABLE, monkeypatch)
    assert found["TLS 1.3 KeyUpdate"].ok
    assert found["short records"].ok
    assert all(found[f"TLSv1.3 {aead.value}"].detail == "TX and RX" for aead in Aead)


def test_half_able_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it cannot do has a code and a remedy."""
    kept = frozenset(
        entry
        for entry in ABLE.supported
        if entry[1:] != (Aead.CHACHA20_POLY1305, Direction.RX) and entry[1] is not Aead.AES_CCM_128
    )
    half = dataclasses.replace(ABLE, supported=kept, rekey=False, payload_limit=False)
    found = report(half, monkeypatch)
    assert found["TLSv1.2 CHACHA20_POLY1305"].detail == "the kernel refuses RX"
    assert found["TLSv1.3 AES_CCM_128"].detail == "the kernel refuses TX and RX"
    codes = {finding.code for finding in found.values() if not finding.ok}
    assert {"suite-unsupported", "no-rekey", "max-fragment-length"} <= codes
    for finding in found.values():
        assert finding.ok is not False or finding.remedy


def test_known_bad_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not usable, whatever it can do."""
    bad = dataclasses.replace(ABLE, advisories=ADVISORIES)
    found = report(bad, monkeypatch)
    assert found["kernel"].code == "known-bad-kernel"
    assert found["kernel"].blocking
    assert not host.examine().usable
    assert all(advisory.cve in found["kernel"].detail for advisory in ADVISORIES)


@pytest.mark.parametrize(
    ("blocks", "ok", "detail"),
    [
        ((UNACCELERATED,), False, "gcm_base(ctr-generic,ghash-generic)"),
        ((UNACCELERATED, INTERNAL, ACCELERATED), True, "generic-gcm-aesni-avx"),
        ((INTERNAL,), False, "none registered"),
        ((), False, "none registered"),
    ],
)
def test_aes_driver(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    blocks: tuple[str, ...],
    detail: str,
    *,
    ok: bool,
) -> None:
    """The best driver that anybody may use decides."""
    (tmp_path / "crypto").write_text("\n".join(blocks))
    monkeypatch.setattr(host, "_CRYPTO", tmp_path / "crypto")
    finding = host._aes_driver()
    assert finding.ok is ok
    assert finding.detail.startswith(detail)


def test_no_list_of_drivers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where /proc/crypto is hidden no driver is named."""
    monkeypatch.setattr(host, "_CRYPTO", tmp_path / "missing")
    assert host.aes_gcm_driver() == ""


@pytest.mark.parametrize(
    ("mark", "uid_map", "modules", "code"),
    [
        (True, "0 0 4294967295", None, "no-tls-ulp-container"),
        (False, "0 100000 65536", None, "no-tls-ulp-container"),
        (False, "0 0 4294967295", None, "no-tls-ulp"),
        (False, "0 0 4294967295", "tls.ko.xz", "tls-module-not-loaded"),
        (False, "0 0 4294967295", "other.ko", "no-tls-module"),
        (False, "", "other.ko", "no-tls-module"),
    ],
)
def test_missing_ulp(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    uid_map: str,
    modules: str | None,
    code: str,
    *,
    mark: bool,
) -> None:
    """A container, a kernel without modules, one without tls, and a user who may not load it."""
    if mark:
        (tmp_path / "mark").touch()
    (tmp_path / "uid_map").write_text(uid_map)
    if modules is not None:
        folder = tmp_path / "modules" / os.uname().release / "kernel" / "net" / "tls"
        folder.mkdir(parents=True)
        (folder / modules).touch()
    monkeypatch.setattr(host, "_CONTAINER_MARKS", (tmp_path / "mark",))
    monkeypatch.setattr(host, "_UID_MAP", tmp_path / "uid_map")
    monkeypatch.setattr(host, "_MODULES", tmp_path / "modules")
    finding = report(BLIND, monkeypatch)["tls ULP"]
    assert finding.code == code
    assert finding.blocking
    assert finding.remedy


def test_other_refusals_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ENOENT is in need of an explanation."""
    refused = dataclasses.replace(BLIND, refusal=Refusal(errno.EPERM, "forbidden", "no", "ask"))
    finding = report(refused, monkeypatch)["tls ULP"]
    assert (finding.code, finding.detail, finding.remedy) == ("forbidden", "no", "ask")


def test_diag_that_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not showing the ULP and not being there are told apart."""
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    assert "CAP_NET_ADMIN" in host._diag().detail

    def missing(_sock: object) -> None:
        raise OSError(errno.ENOENT, "no sock_diag")

    monkeypatch.setattr(host, "socket_info", missing)
    assert "no sock_diag" in host._diag().detail


def test_diag_that_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the status commands need no more privileges."""
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    with probe.loopback_pair() as (sock, _):
        entry = socket_info(sock)._replace(ulp=UlpInfo("tls"))
    monkeypatch.setattr(host, "socket_info", lambda _sock: entry)
    assert host._diag().ok


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interfaces are named; not knowing is no fault."""
    devices = [Device(name, {"tls-hw-tx-offload": "on"}) for name in ("eth0", "eth1")]
    monkeypatch.setattr(host, "tls_features", lambda: devices)
    detail = "eth0: tls-hw-tx-offload on; eth1: tls-hw-tx-offload on"
    assert host._devices(encrypts=True).detail == detail
    monkeypatch.setattr(host, "tls_features", list)
    assert "no network interface" in host._devices(encrypts=True).detail

    def forbidden() -> list[str]:
        raise OSError(errno.EPERM, "forbidden")

    monkeypatch.setattr(host, "tls_features", forbidden)
    assert host._devices(encrypts=True).ok is None
