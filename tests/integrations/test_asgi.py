"""Tests of asgi; the servers are in test_asynchronous."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.aio.peers import Echo, converse, serving
from tests.doubles import OFFLOADS, RELAY
from tlsify.integrations.asgi import TlsExtension

if TYPE_CHECKING:
    import trustme

    from tlsify.config import KtlsPolicy, ServerConfig
    from tlsify.credentials.anchors import TrustAnchors


class Asking(Echo):
    """Has an application answer each piece of data."""

    seen: list[dict[str, Any]]

    def data_received(self, data: bytes) -> None:
        """Ask the application."""
        super().data_received(data)
        self.task = asyncio.create_task(self.ask({"type": "http", "extensions": {"x": {}}}))

    async def ask(self, scope: dict[str, Any]) -> None:
        """Keep the scope that the application sees."""

        async def application(scope: dict[str, Any], *_: object) -> None:
            self.seen.append(scope)

        await TlsExtension(application)(scope, None, None)
        await TlsExtension(application)({"type": "lifespan"}, None, None)
        assert scope["extensions"] == {"x": {}}


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("certified", [False, True])
def test_extension(
    server_config: ServerConfig,
    trust: TrustAnchors,
    authority: trustme.CA,
    policy: KtlsPolicy,
    *,
    certified: bool,
) -> None:
    """A request's scope has the connection's facts; what was there before stays."""
    Asking.seen = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    authority.issue_cert("a.example", common_name="client.example").configure_cert(context)
    config = server_config
    if certified:
        config = dataclasses.replace(server_config, client_trust=trust)

    async def work() -> None:
        async with serving(config, policy, Asking) as server:
            await converse(server, context, b"request")

    asyncio.run(work())
    http, lifespan = Asking.seen
    assert lifespan == {"type": "lifespan"}
    assert http["extensions"]["x"] == {}
    said = http["extensions"]["tls"]
    assert said["tls_version"] == 0x0304
    assert said["cipher_suite"] in {0x1301, 0x1302, 0x1303}
    assert said["ktls"] == ("policy-off" if policy is RELAY else "kernel")
    assert said["server_cert"] is said["client_cert_error"] is None
    if certified:
        assert "CN=client.example" in said["client_cert_name"]
        (pem,) = said["client_cert_chain"]
        assert ssl.PEM_cert_to_DER_cert(pem)
    else:
        assert said["client_cert_name"] is None
        assert said["client_cert_chain"] == ()


def test_plain_connection() -> None:
    """Where there is no TLS there is no extension."""
    seen: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], *_: object) -> None:
        seen.append(scope)

    asyncio.run(_call(TlsExtension(application)))
    assert seen == [{"type": "http"}]


async def _call(application: TlsExtension) -> None:
    await application({"type": "http"}, None, None)
