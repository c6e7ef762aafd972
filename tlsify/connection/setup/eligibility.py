"""Eligibility for an offload by policy and host: why not, or with which ciphers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.errors import KtlsUnavailable, ReasonCode
from tlsify.ktls import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tlsify.codepoints import CipherSuite
    from tlsify.ktls.probe import Capabilities

# "off" in this variable turns the offload off, whatever the program was started with.
KILL_SWITCH = "TLSIFY_KTLS"
_ASK = "see which ones it takes with tlsify check"


def capabilities() -> Capabilities:
    """Return the kernel's capabilities."""
    return probe.capabilities()


def policy_refusal(policy: KtlsPolicy) -> KtlsUnavailable | None:
    """Return why no connection is to be offloaded; None if they are."""
    if policy.mode is KtlsMode.OFF:
        return _refusal(
            ReasonCode.POLICY_OFF, "kernel TLS is off by choice", "leave out --ktls=off"
        )
    if os.environ.get(KILL_SWITCH) == "off":
        return _refusal(ReasonCode.SWITCHED_OFF, f"{KILL_SWITCH}=off", "unset that variable")
    return None


def memory_refusal(policy: KtlsPolicy) -> KtlsUnavailable:
    """Return why a connection without a socket is not offloaded."""
    return policy_refusal(policy) or _refusal(
        ReasonCode.IN_MEMORY,
        "an event loop or a library does TLS in memory, without a socket for the kernel",
        "on asyncio, run the program on tlsify.aio.EventLoop; anyio and trio always use memory",
    )


def host_refusal(policy: KtlsPolicy) -> KtlsUnavailable | None:
    """Return why no connection would be offloaded here; None if they would be."""
    if (refusal := policy_refusal(policy)) is not None:
        return refusal
    found = capabilities()
    if found.refusal is not None:
        number, code, sentence, hint = found.refusal
        return KtlsUnavailable("TCP_ULP", number, sentence, code=code, hint=hint)
    if found.advisories and not policy.any_kernel:
        worst = found.advisories[0]
        return _refusal(
            ReasonCode.KNOWN_BAD_KERNEL,
            f"this kernel has {worst.cve}: {worst.effect}",
            "update the kernel, or accept the risk with --ktls-any-kernel",
        )
    return None


def cipher_refusal(wanted: tuple[Aead, ...]) -> KtlsUnavailable | None:
    """Return why no suite could be offloaded; None if one could be."""
    if any(map(capabilities().offloads_everywhere, wanted)):
        return None
    return _refusal(ReasonCode.SUITE_UNSUPPORTED, "this kernel takes none of the ciphers", _ASK)


def suite_refusal(suite: CipherSuite, policy: KtlsPolicy) -> KtlsUnavailable | None:
    """Return why a connection with the negotiated suite is not offloaded; None if it is."""
    found = capabilities()
    if not found.offloads(suite):
        return _refusal(
            ReasonCode.SUITE_UNSUPPORTED, f"this kernel does not take {suite.name}", _ASK
        )
    is_tls13 = suite.version is ProtocolVersion.TLSv1_3
    if policy.rekey_required and is_tls13 and not found.rekey:
        return _refusal(
            ReasonCode.NO_REKEY,
            "this kernel cannot follow a TLS 1.3 KeyUpdate",
            "use Linux 6.14 or later, or drop --ktls-rekey=require",
        )
    return None


def offloadable(wanted: tuple[Aead, ...], policy: KtlsPolicy) -> tuple[Aead, ...]:
    """Prefer, or allow only, the ciphers that this kernel can take."""
    found = capabilities()
    offloaded = tuple(aead for aead in wanted if found.offloads_everywhere(aead))
    if policy.mode is KtlsMode.REQUIRE:
        return offloaded
    return offloaded + tuple(aead for aead in wanted if aead not in offloaded)


def attempt(
    policy: KtlsPolicy,
    step: Callable[..., None],
    *args: object,
    put_off: Collection[str] = (),
) -> KtlsUnavailable | None:
    """Try a step of the offload; return the refusal, which leads to the relay.

    Args:
        policy: when to offload.
        step: raises KtlsUnavailable if the kernel refuses.
        args: of the step.
        put_off: codes of refusals that are returned whatever the policy: a later step decides.

    Raises:
        KtlsUnavailable: the policy requires the kernel.
    """
    try:
        step(*args)
    except KtlsUnavailable as exc:
        if policy.mode is KtlsMode.REQUIRE and exc.code not in put_off:
            raise
        # Its traceback has the caller's frame, which keeps it: all of a connection would live on
        # in that circle until garbage is looked for.
        return exc.with_traceback(None)
    return None


def _refusal(code: str, sentence: str, hint: str) -> KtlsUnavailable:
    return KtlsUnavailable("ktls", 0, sentence, code=code, hint=hint)
