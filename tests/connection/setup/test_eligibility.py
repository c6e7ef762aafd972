"""Tests of eligibility."""

from __future__ import annotations

import dataclasses

import pytest

from tests.doubles import KERNEL
from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion
from tlsify.config import KtlsPolicy
from tlsify.connection.setup import eligibility
from tlsify.connection.setup.eligibility import (
    KILL_SWITCH,
    cipher_refusal,
    host_refusal,
    offloadable,
    suite_refusal,
)
from tlsify.keys import Direction
from tlsify.ktls.advisories import ADVISORIES
from tlsify.ktls.probe import Capabilities

AUTO = KtlsPolicy()
ABLE = Capabilities(
    refusal=None,
    supported=frozenset((v, a, d) for v in ProtocolVersion for a in Aead for d in Direction),
    rekey=False,
    payload_limit=False,
    advisories=(),
)


def test_known_bad_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with a known bug is not used, unless the caller insists."""
    monkeypatch.setattr(
        eligibility,
        "capabilities",
        lambda: dataclasses.replace(ABLE, advisories=ADVISORIES[:1]),
    )
    refusal = host_refusal(AUTO)
    assert refusal is not None
    assert refusal.code == "known-bad-kernel"
    assert "CVE-2025-39682" in str(refusal)
    assert host_refusal(KtlsPolicy(any_kernel=True)) is None


def _half(*missing: Aead) -> Capabilities:
    kept = frozenset(entry for entry in ABLE.supported if entry[1] not in missing)
    return dataclasses.replace(ABLE, supported=kept)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that lacks one cipher."""
    monkeypatch.setattr(eligibility, "capabilities", lambda: _half(Aead.AES_GCM_128))


@pytest.mark.usefixtures("half")
def test_only_offloadable_suites_are_offered() -> None:
    """With kTLS required the hello names nothing else; otherwise the rest comes last."""
    wanted = (Aead.AES_GCM_128, Aead.AES_GCM_256, Aead.CHACHA20_POLY1305)
    assert offloadable(wanted, KERNEL) == wanted[1:]
    assert offloadable(wanted, AUTO) == (*wanted[1:], wanted[0])


@pytest.mark.usefixtures("half")
def test_ciphers_that_the_kernel_lacks() -> None:
    """One of several is enough to try; which one it became is seen afterwards."""
    lacked, taken = (next(s for s in CipherSuite if s.aead is a) for a in list(Aead)[:2])
    refusal = cipher_refusal((lacked.aead,))
    assert refusal is not None
    assert refusal.code == "suite-unsupported"
    assert cipher_refusal((lacked.aead, taken.aead)) is None
    refusal = suite_refusal(lacked, AUTO)
    assert refusal is not None
    assert lacked.name in str(refusal)
    assert suite_refusal(taken, AUTO) is None


@pytest.mark.parametrize("version", list(ProtocolVersion))
def test_rekey_required(monkeypatch: pytest.MonkeyPatch, version: ProtocolVersion) -> None:
    """TLS 1.2 has nothing to follow."""
    monkeypatch.setattr(eligibility, "capabilities", lambda: ABLE)
    suite = next(s for s in CipherSuite if s.version is version)
    refusal = suite_refusal(suite, KtlsPolicy(rekey_required=True))
    assert (refusal is None) == (version is ProtocolVersion.TLSv1_2)


@pytest.mark.parametrize(("value", "is_off"), [("off", True), ("", False), ("auto", False)])
def test_kill_switch(monkeypatch: pytest.MonkeyPatch, value: str, *, is_off: bool) -> None:
    """One word of the environment turns it off for every program, required or not."""
    monkeypatch.setattr(eligibility, "capabilities", lambda: ABLE)
    monkeypatch.setenv(KILL_SWITCH, value)
    refusal = host_refusal(KERNEL)
    assert (refusal is not None) == is_off
    if refusal is not None:
        assert refusal.code == "switched-off"
