"""What the programs with blocking servers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.config import KtlsMode, KtlsPolicy
from tlsify.sslcontext.context import SSLContext

if TYPE_CHECKING:
    from tests.integrations.harness import Task


def policy(task: Task) -> KtlsPolicy:
    """Return the policy that a task wants."""
    return KtlsPolicy(KtlsMode(task.ktls))


def context(task: Task) -> SSLContext:
    """Make the context that a task wants."""
    made = SSLContext.for_server(
        task.cert, task.key, cafile=task.ca, alpn=task.alpn, policy=policy(task)
    )
    made.handshake_timeout = float(task.options.get("timeout", 30))
    return made
