"""A user's program: it must type-check, and is never run."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import BinaryIO

import tlsify
from tlsify import aio


def client() -> bytes:
    """Use every public name that a client meets."""
    config = tlsify.ClientConfig(
        server_name="example.org",
        identities=(tlsify.ReferenceIdentifier.parse("dns:example.org"),),
        trust=tlsify.TrustAnchors.load(Path("ca.pem")),
        alpn=(b"http/1.1",),
        versions=frozenset({tlsify.ProtocolVersion.TLSv1_3}),
        aeads=(tlsify.Aead.AES_GCM_256,),
    )
    policy = tlsify.KtlsPolicy(tlsify.KtlsMode.REQUIRE)
    try:
        handed: tlsify.Handoff = tlsify.connect(
            socket.create_connection(("h", 443)), config, policy
        )
    except tlsify.IdentityError as error:
        presented: tuple[str, ...] = tuple(error.mismatches)
        return ", ".join(presented).encode()
    except tlsify.KtlsUnavailable as error:
        step: str = error.step
        return f"{step} {error.code} {error.hint}".encode()
    suite: tlsify.CipherSuite = handed.negotiated.suite
    with tlsify.TLSSocket(handed) as stream:
        stream.sendall(suite.name.encode())
        try:
            return stream.recv(100)
        except tlsify.Truncated as error:
            alert: tlsify.AlertDescription | None = error.alert
            return repr(alert).encode()


def server(listener: socket.socket) -> None:
    """Use every public name that a server meets."""
    pair = tlsify.KeyPair.load(Path("cert.pem"), Path("key.pem"))
    sock, _ = listener.accept()
    with tlsify.accept(sock, tlsify.ServerConfig(key_pair=pair)) as handed:
        reason: tlsify.Reason | None = handed.reason
        if handed.offload is tlsify.Offload.RELAY and reason is not None:
            handed.sock.sendall(reason.code.encode())
        while handed.service():
            pass
        handed.shutdown()


async def streams(writer: asyncio.StreamWriter, config: tlsify.ClientConfig, file: BinaryIO) -> int:
    """Pass a writer's transport where the loop's own functions take it."""
    made = await aio.start_tls(writer.transport, asyncio.Protocol(), config)
    return await aio.sendfile(made, file) + await aio.sendfile(writer.transport, file)


def host() -> bool:
    """Ask what this kernel can do."""
    found: tlsify.Capabilities = tlsify.capabilities()
    return found.offloads(tlsify.CipherSuite.TLS_AES_128_GCM_SHA256) and found.rekey
