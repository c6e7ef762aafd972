"""The two carriers of records, as parameters: the kernel, and the relay for the host's run."""

from __future__ import annotations

import pytest

from tlsify.config import KtlsMode
from tlsify.connection.handoff import Offload

MODES = {Offload.KERNEL: KtlsMode.REQUIRE, Offload.RELAY: KtlsMode.OFF}
CARRIERS = [
    pytest.param(Offload.KERNEL, id="kernel", marks=pytest.mark.ktls),
    pytest.param(Offload.RELAY, id="relay"),
]
