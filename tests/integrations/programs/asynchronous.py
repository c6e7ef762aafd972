"""What the programs with asynchronous servers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.integrations.applications import offload

if TYPE_CHECKING:
    from collections.abc import Callable


def told(scope: dict[str, Any]) -> dict[str, str]:
    """Return what an ASGI request's scope says, by page."""
    tls = scope["extensions"]["tls"]
    name = tls["client_cert_name"] or ""
    names = [part.removeprefix("CN=") for part in name.split(",") if part.startswith("CN=")]
    assert bool(tls["client_cert_chain"]) == bool(name)
    client = scope["client"]
    return {
        "peer": names[0] if names else "-",
        "offload": offload(tls["ktls"]),
        "version": f"{tls['tls_version']:#06x}",
        "address": client[0] if client else "-",
    }


def loop(options: dict[str, str]) -> Callable[[], Any]:
    """Return the class of the loop that a task wants."""
    if options.get("loop") == "uvloop":
        from tlsify.integrations.uvloop import EventLoop as UvloopEventLoop

        return UvloopEventLoop
    from tlsify.aio.loop import EventLoop

    return EventLoop
