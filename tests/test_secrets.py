"""Secrets in memory: what a process has of a connection's while it is open, and afterwards."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.doubles import KERNEL, OFFLOADS, RELAY, VERSIONS, Lab, keys_of
from tests.memory import holds
from tlsify.codepoints import ProtocolVersion
from tlsify.connection.setup import handshake
from tlsify.ktls.probe import capabilities
from tlsify.tls.engine import Engine

if TYPE_CHECKING:
    from tlsify import KtlsPolicy

roles = pytest.mark.parametrize("role", ["client", "server"])
versions = pytest.mark.parametrize("version", VERSIONS)


class Process:
    """A process with one end of a connection; its peer here knows all secrets of it.

    Attributes:
        traffic: the traffic secrets of TLS 1.3.
    """

    def __init__(
        self, lab: Lab, work: str, role: str, version: ProtocolVersion, policy: KtlsPolicy = RELAY
    ) -> None:
        """Start it, and shake hands with it.

        Args:
            lab: for sockets and configurations.
            work: what it does (`confidant`): from time to time it stops until it may `go_on`.
            role: the process's.
            version: of TLS.
            policy: likewise.
        """
        near, self._far = lab.tcp()
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(60)
        sockets = [near.fileno(), theirs.fileno()]
        told = {"work": work, "role": role, "version": version.value, "ktls": policy.mode.value}
        words = [sys.executable, "-m", "tests.confidant", json.dumps({**told, "sockets": sockets})]
        self._process = subprocess.Popen(words, pass_fds=sockets)
        near.close()
        theirs.close()
        client, server = lab.configs(version)
        engine = Engine(replace(server if role == "client" else client, key_log=Path("log")))
        handshake.run(self._far, engine, 60)
        self._learn(engine)
        assert self._ours.recv(1)

    def _learn(self, engine: Engine) -> None:
        made = keys_of(engine)
        lines = [line.split()[2] for line in engine.take_key_log().splitlines()]
        logged = {*lines, *(bytes.fromhex(line.decode()) for line in lines)}
        self.traffic = {bytes(each) for each in (made.tx_secret, made.rx_secret) if each}
        self._all = logged | {bytes(keys.key) for keys in (made.tx, made.rx)}

    @property
    def found(self) -> set[bytes]:
        """What it has of them, apart from leavings of libraries on the stack."""
        return holds(self._process.pid, self._all, stack=False)

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
        with self._process, self._ours:  # closed first, in case it waits for more
            self._ours.send(b"x")
        assert self._process.returncode == 0


@roles
@versions
@pytest.mark.parametrize("policy", OFFLOADS)
def test_connection(lab: Lab, role: str, version: ProtocolVersion, policy: KtlsPolicy) -> None:
    """An offloaded one has what later keys come of; a closed one nothing, on either carrier."""
    with Process(lab, "connection", role, version, policy) as process:
        if policy is RELAY:
            assert process.found  # which OpenSSL needs; so the search finds what there is
        elif version is ProtocolVersion.TLSv1_3 and capabilities().rekey:
            assert process.found == process.traffic
        else:
            assert process.found == set()
        process.go_on()
        assert process.found == set()


@pytest.mark.ktls
def test_stored_sessions(lab: Lab) -> None:
    """A client that waits for tickets has what they are read with, until it closes."""
    with Process(lab, "stored", "client", ProtocolVersion.TLSv1_3, KERNEL) as process:
        assert process.found > process.traffic
        process.go_on()
        assert process.found == set()


@roles
@versions
def test_derived_keys(lab: Lab, role: str, version: ProtocolVersion) -> None:
    """Nothing is left behind by what derives and packs keys for the kernel."""
    with Process(lab, "derived_keys", role, version) as process:
        assert process.found == set()
