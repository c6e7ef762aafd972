"""Secrets in memory: what a process has of a connection's while it is open, and afterwards."""

from __future__ import annotations

import os
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

import tlsify
from tests.doubles import OFFLOADS, RELAY, VERSIONS, Lab, keys_of
from tests.memory import holds
from tlsify.codepoints import ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.connection.setup import handshake
from tlsify.keys import wipe
from tlsify.ktls.crypto_info import pack
from tlsify.ktls.probe import capabilities
from tlsify.system.process import protect_process
from tlsify.tls.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify import Handoff, KtlsPolicy

roles = pytest.mark.parametrize("role", ["client", "server"])
versions = pytest.mark.parametrize("version", VERSIONS)


class Process:
    """A forked process with one end of a connection; its peer here knows all secrets of it.

    Attributes:
        traffic: the traffic secrets of TLS 1.3.
    """

    def __init__(
        self,
        lab: Lab,
        role: str,
        version: ProtocolVersion,
        work: Callable[[socket.socket, ClientConfig | ServerConfig, Callable[[], None]], None],
    ) -> None:
        """Fork it, and shake hands with it.

        Args:
            lab: for sockets and configurations.
            role: the process's.
            version: of TLS.
            work: what it does, with its socket, its configuration, and a function that stops it
                until it may `go_on`.
        """
        near, self._far = lab.tcp()
        self._ours, self._theirs = socket.socketpair()
        client, server = lab.configs(version)
        own, peers = (client, server) if role == "client" else (server, client)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
            self._pid = os.fork()
        if not self._pid:
            status = 1
            try:
                protect_process()
                self._far.close()
                work(near, own, self._stop)
                status = 0
            finally:
                os._exit(status)
        near.close()
        engine = Engine(replace(peers, key_log=Path("log")))
        handshake.run(self._far, engine, 60)
        self._learn(engine)
        assert self._ours.recv(1)

    def _stop(self) -> None:
        self._theirs.send(b"x")
        self._theirs.recv(1)

    def _learn(self, engine: Engine) -> None:
        made = keys_of(engine)
        lines = [line.split()[2] for line in engine.take_key_log().splitlines()]
        logged = {*lines, *(bytes.fromhex(line.decode()) for line in lines)}
        self.traffic = {bytes(each) for each in (made.tx_secret, made.rx_secret) if each}
        self._all = logged | {bytes(keys.key) for keys in (made.tx, made.rx)}

    @property
    def found(self) -> set[bytes]:
        """What it has of them, apart from leavings of libraries on the stack."""
        return holds(self._pid, self._all, stack=False)

    def go_on(self) -> None:
        """Let it go on until it stops again."""
        self._far.close()
        self._ours.send(b"x")
        assert self._ours.recv(1)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Have it end."""
        self._ours.send(b"x")
        for sock in (self._ours, self._theirs):
            sock.close()
        assert os.waitpid(self._pid, 0)[1] == 0


def _shake(sock: socket.socket, config: ClientConfig | ServerConfig, policy: KtlsPolicy) -> Handoff:
    if isinstance(config, ClientConfig):
        return tlsify.connect(sock, config, policy)
    return tlsify.accept(sock, config, policy)


@roles
@versions
@pytest.mark.parametrize("policy", OFFLOADS)
def test_connection(lab: Lab, role: str, version: ProtocolVersion, policy: KtlsPolicy) -> None:
    """An offloaded one has what later keys come of; a closed one nothing, on either carrier."""

    def work(
        sock: socket.socket, config: ClientConfig | ServerConfig, stop: Callable[[], None]
    ) -> None:
        handed = _shake(sock, config, policy)
        stop()
        handed.close()
        if handed.relay is not None:
            handed.relay.join(60)
        stop()

    with Process(lab, role, version, work) as process:
        if policy is RELAY:
            assert process.found  # which OpenSSL needs; so the search finds what there is
        elif version is ProtocolVersion.TLSv1_3 and capabilities().rekey:
            assert process.found == process.traffic
        else:
            assert process.found == set()
        process.go_on()
        assert process.found == set()


@roles
@versions
def test_derived_keys(lab: Lab, role: str, version: ProtocolVersion) -> None:
    """Nothing is left behind by what derives and packs keys for the kernel."""

    def work(
        sock: socket.socket, config: ClientConfig | ServerConfig, stop: Callable[[], None]
    ) -> None:
        engine = Engine(config)
        handshake.run(sock, engine, 60)
        keys = keys_of(engine)
        wipe(pack(keys.tx), pack(keys.rx))
        keys.wipe()
        engine.release()
        stop()

    with Process(lab, role, version, work) as process:
        assert process.found == set()
