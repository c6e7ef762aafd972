"""Tests of wire: its numbers, which are not to change, and that all configuration gets across."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from tests.agent.harness import ROOT
from tlsify.agent import wire
from tlsify.agent.fields import Message
from tlsify.config import ClientConfig, KtlsPolicy, ServerConfig

NUMBERS = {
    "Open": (1, {}),
    "ClientRequest": (
        2,
        {
            "server_name": 1,
            "identities": 2,
            "verify": 3,
            "trust": 4,
            "alpn": 5,
            "versions": 6,
            "aeads": 7,
            "groups": 15,
            "timeout": 8,
            "session_store": 9,
            "certificate": 10,
            "key": 11,
            "pins": 12,
            "crls": 13,
            "crl_check_all": 20,
            "key_log": 14,
            "ktls": 32,
            "rekey_required": 33,
            "any_kernel": 34,
        },
    ),
    "ServerRequest": (
        3,
        {
            "alpn": 5,
            "versions": 6,
            "aeads": 7,
            "groups": 15,
            "timeout": 8,
            "crls": 13,
            "crl_check_all": 20,
            "key_log": 14,
            "key_pair": 16,
            "client_trust": 17,
            "client_required": 18,
            "client_identities": 19,
            "ktls": 32,
            "rekey_required": 33,
            "any_kernel": 34,
        },
    ),
}
# Spelled differently in a request, or the agent's own affair.
ELSEWHERE: dict[str, set[str]] = {
    "key_pair": {"certificate", "key", "key_pair"},
    "more_key_pairs": set(),
    "resumption": set(),
    "keep_chain": set(),  # answers have the leaf
    "acme_challenge": set(),  # of servers whose certificates renew themselves
    "provisional": set(),
    "mode": {"ktls"},
}


def test_numbers_are_kept() -> None:
    """A number that is in use never means anything else."""
    assert {kind: m.__name__ for kind, m in Message.kinds.items()} == {
        1: "Open",
        2: "ClientRequest",
        3: "ServerRequest",
        16: "Kernel",
        17: "Relayed",
        18: "Failed",
        19: "Ended",
    }
    for message in (wire.Open, wire.ClientRequest, wire.ServerRequest):
        kind, tags = NUMBERS[message.__name__]
        assert message.kind == kind
        assert {name: at.tag for name, at in message.table.items()} == tags


@pytest.mark.parametrize(
    ("config", "request_type"),
    [(ClientConfig, wire.ClientRequest), (ServerConfig, wire.ServerRequest)],
)
def test_all_configuration_can_be_asked_for(
    config: type[ClientConfig | ServerConfig], request_type: type[wire.Request]
) -> None:
    """A new field of a configuration has to find its way into requests."""
    names = {*KtlsPolicy._fields, *(at.name for at in dataclasses.fields(config))}
    missing = {
        name
        for name in names
        if not ELSEWHERE.get(name, {name}) & set(request_type.table)
        and ELSEWHERE.get(name) != set()
    }
    assert not missing


def test_same_request_same_bytes() -> None:
    """What is remembered is what would be written."""
    request = wire.ClientRequest(server_name="a")
    assert wire.encode_request(request) == bytes(wire.encode(request))
    assert wire.decode_request(wire.encode_request(request)) == request


def test_asking_needs_no_cryptography() -> None:
    """A requester imports neither OpenSSL nor cryptography, nor what makes a hand-off."""
    imported = "tlsify.agent, tlsify.connection.handoff, tlsify.tls.negotiated"
    code = f"import sys, {imported}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"OpenSSL", "cryptography", "asyncio"} & set(out)
