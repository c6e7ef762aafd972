"""A program with one end of a connection, and what it has of it in its memory: `test_secrets`.

It is a program of its own, since it is small then. To search the memory of a process that was
forked from the tests' own, with the stacks of all their threads, takes a guest longer than it has.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tlsify
from tests.doubles import keys_of
from tlsify.codepoints import ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.connection.setup import handshake
from tlsify.credentials.self_signed import make_key_pair
from tlsify.keys import wipe
from tlsify.ktls.crypto_info import pack
from tlsify.system.process import protect_process
from tlsify.tls.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

_GROUPS = ("x25519", "secp256r1")


def connection(
    sock: socket.socket,
    config: ClientConfig | ServerConfig,
    policy: KtlsPolicy,
    stop: Callable[[], None],
) -> None:
    """Have a connection made, ask how much its key has protected, and close it."""
    if isinstance(config, ClientConfig):
        handed = tlsify.connect(sock, config, policy)
    else:
        handed = tlsify.accept(sock, config, policy)
    handed.refresh()
    stop()
    handed.close()
    if handed.relay is not None:
        handed.relay.join(60)
    stop()


def stored(
    sock: socket.socket,
    config: ClientConfig | ServerConfig,
    policy: KtlsPolicy,
    stop: Callable[[], None],
) -> None:
    """Do it as a client that stores sessions."""
    assert isinstance(config, ClientConfig)
    with tempfile.TemporaryDirectory() as folder:
        connection(sock, replace(config, session_store=Path(folder)), policy, stop)


def derived_keys(
    sock: socket.socket,
    config: ClientConfig | ServerConfig,
    _: KtlsPolicy,
    stop: Callable[[], None],
) -> None:
    """Derive keys and pack them, and wipe both."""
    engine = Engine(config)
    handshake.run(sock, engine, 60)
    keys = keys_of(engine)
    wipe(pack(keys.tx), pack(keys.rx))
    keys.wipe()
    engine.release()
    stop()


def main() -> None:
    """Do what the arguments say."""
    told = json.loads(sys.argv[1])
    sock, parent = (socket.socket(fileno=number) for number in told["sockets"])
    only = frozenset({ProtocolVersion(told["version"])})
    config: ClientConfig | ServerConfig
    if told["role"] == "client":
        config = ClientConfig(verify=False, timeout=60, versions=only, groups=_GROUPS)
    else:
        key_pair = make_key_pair(["localhost"])
        config = ServerConfig(key_pair=key_pair, timeout=60, versions=only, groups=_GROUPS)

    def stop() -> None:
        parent.send(b"x")
        parent.recv(1)

    protect_process()
    works = {"connection": connection, "stored": stored, "derived_keys": derived_keys}
    works[told["work"]](sock, config, KtlsPolicy(KtlsMode(told["ktls"])), stop)


if __name__ == "__main__":
    main()
