"""Tests of plans: what is not said is safe."""

from __future__ import annotations

from typing import cast

from tlsify.config import KtlsPolicy
from tlsify.serving.plan import Provision, ServerPlan
from tlsify.system.sandbox import Reach, Sandboxing


def test_defaults() -> None:
    """Workers are confined to what they need, which is nothing, if no more is said."""
    provision = Provision(lambda: cast("object", None))  # type: ignore[arg-type,return-value]
    plan = ServerPlan(listeners=[], load=None, policy=KtlsPolicy(), provide=lambda: provision)
    assert (plan.reach(), plan.sandboxing) == (Reach(), Sandboxing.AUTO)
    assert plan.provide().clients == ()
