"""Tests of context."""

from __future__ import annotations

import contextlib
import gc
import ssl
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from OpenSSL import SSL

from tests.certificates import self_signed
from tests.conftest import HOST, issue
from tests.doubles import EnginePair, context_for
from tlsify.codepoints import DEFAULT_AEADS, Aead, CipherSuite, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import ConfigError
from tlsify.tls import context as module
from tlsify.tls.context import (
    PERIOD,
    RING,
    TICKET_LIFETIME,
    drop_past_keys,
    prepare,
)
from tlsify.tls.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

WEAK = rsa.generate_private_key(65537, 1024)  # to be refused


def test_one_context_for_each_configuration(client_config: ClientConfig) -> None:
    """The same configuration and ciphers share a Context; anything else does not."""
    first = context_for(client_config, DEFAULT_AEADS)
    assert context_for(client_config, DEFAULT_AEADS) is first
    assert context_for(client_config, (Aead.AES_GCM_128,)) is not first
    assert context_for(replace(client_config), DEFAULT_AEADS) is not first


def test_context_goes_with_its_configuration(client_config: ClientConfig) -> None:
    """A configuration that nobody uses any more takes its Contexts along."""
    config = replace(client_config)
    context_for(config, DEFAULT_AEADS)
    gone = weakref.ref(config)
    before = len(module._made)
    del config
    gc.collect()
    assert gone() is None
    assert len(module._made) < before


def _offered(client_config: ClientConfig, aeads: tuple[Aead, ...]) -> list[str]:
    connection = SSL.Connection(context_for(client_config, aeads), None)
    return connection.get_cipher_list()


@pytest.mark.parametrize("aead", Aead)
def test_only_the_ciphers_asked_for(client_config: ClientConfig, aead: Aead) -> None:
    """A Context knows the suites of its ciphers and no other."""
    expected = {suite.openssl_name for suite in CipherSuite if suite.aead is aead}
    assert set(_offered(client_config, (aead,))) == expected


def test_order_of_ciphers(client_config: ClientConfig) -> None:
    """What is wanted most comes first, in each version."""
    order = (Aead.CHACHA20_POLY1305, Aead.AES_GCM_128, Aead.AES_GCM_256)
    names = _offered(client_config, order)
    for version in ProtocolVersion:
        found = [
            suite.aead for suite in map(CipherSuite.from_openssl, names) if suite.version is version
        ]
        assert list(dict.fromkeys(found)) == list(order)


def test_every_suite_offered_is_known(client_config: ClientConfig) -> None:
    """No suite can be negotiated that the kernel could not take."""
    for name in _offered(client_config, tuple(Aead)):
        assert CipherSuite.from_openssl(name)


def test_key_that_openssl_refuses(client_config: ClientConfig) -> None:
    """A key that is too short is a ConfigError, on either side."""
    weak = self_signed(WEAK)
    with pytest.raises(ConfigError, match="OpenSSL refuses"):
        Engine(ServerConfig(key_pair=weak))
    with pytest.raises(ConfigError, match="OpenSSL refuses"):
        context_for(replace(client_config, key_pair=weak), DEFAULT_AEADS)


def test_refused_key_leaves_no_trace(client_config: ClientConfig, key_pair: KeyPair) -> None:
    """After a refusal the next configuration works: no error is left in OpenSSL's queue."""
    weak = self_signed(WEAK)
    with pytest.raises(ConfigError):
        Engine(ServerConfig(key_pair=weak))
    client, _ = EnginePair(client_config, ServerConfig(key_pair=key_pair)).run()
    assert client.suite


def test_ed25519_certificate(client_config: ClientConfig) -> None:
    """Ed25519 works in both versions."""
    key_pair = self_signed(ed25519.Ed25519PrivateKey.generate())
    for version in ProtocolVersion:
        client = replace(
            client_config, trust=TrustAnchors(key_pair.chain), versions=frozenset({version})
        )
        outcome, _ = EnginePair(client, ServerConfig(key_pair=key_pair)).run()
        assert outcome.version is version


def test_whole_chain_is_sent(authority: trustme.CA, client_config: ClientConfig) -> None:
    """A client that knows the root only can build the path through the intermediate."""
    key_pair = issue(authority.create_child_ca(), HOST)
    client, _ = EnginePair(client_config, ServerConfig(key_pair=key_pair)).run()
    assert client.peer_certificate == key_pair.chain[0]


def test_intermediate_as_anchor(authority: trustme.CA, client_config: ClientConfig) -> None:
    """Whatever the caller names is an anchor, be it self-signed or not."""
    middle = authority.create_child_ca()
    key_pair = issue(middle, HOST)
    trust = TrustAnchors((key_pair.chain[1],))
    server = ServerConfig(key_pair=key_pair)
    client, _ = EnginePair(replace(client_config, trust=trust), server).run()
    assert client.suite


def test_same_anchor_twice(
    client_config: ClientConfig, server_config: ServerConfig, trust: TrustAnchors
) -> None:
    """An anchor that is in two files is no error."""
    assert trust.certificates is not None
    twice = TrustAnchors(trust.certificates * 2)
    client, _ = EnginePair(replace(client_config, trust=twice), server_config).run()
    assert client.suite


def test_nothing_is_remembered(client_config: ClientConfig, server_config: ServerConfig) -> None:
    """A second connection does not resume the first, whatever the library could do."""
    for version in ProtocolVersion:
        client = replace(client_config, versions=frozenset({version}))
        for _ in range(2):
            outcome, peer = EnginePair(client, server_config).run()
            assert not outcome.resumed
            assert not peer.resumed


# -- the ring of ticket keys


@pytest.fixture
def resuming(server_config: ServerConfig) -> ServerConfig:
    """A server that gives tickets."""
    return replace(server_config, resumption=True)


def test_one_context_for_each_period(resuming: ServerConfig) -> None:
    """A period's Context stays until the next period begins; the past is dropped."""
    first = context_for(resuming, DEFAULT_AEADS, 0.0)
    assert context_for(resuming, DEFAULT_AEADS, PERIOD - 0.5) is first
    other = context_for(resuming, (Aead.AES_GCM_128,), 1.0)
    gone = weakref.ref(first), weakref.ref(other)
    del first, other
    second = context_for(resuming, DEFAULT_AEADS, PERIOD)
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert second.get_timeout() == TICKET_LIFETIME


def test_ring_prepared(resuming: ServerConfig) -> None:
    """Every period of the ring has its Context already; what follows is made when it comes."""
    start = 7 * PERIOD + 5.0
    prepare(resuming, DEFAULT_AEADS, start)
    made = list(module._made[resuming].values())
    assert len(made) == len(set(map(id, made))) == RING
    used = [context_for(resuming, DEFAULT_AEADS, start + i * PERIOD) for i in range(RING)]
    assert list(map(id, used)) == list(map(id, made))
    assert id(context_for(resuming, DEFAULT_AEADS, start + RING * PERIOD)) not in map(id, made)
    assert len(module._made[resuming]) == 1


def test_past_keys_dropped(resuming: ServerConfig, server_config: ServerConfig) -> None:
    """A process that makes no connections drops its past keys as well, and nothing else."""
    lasting = context_for(server_config, DEFAULT_AEADS)
    prepare(resuming, DEFAULT_AEADS, 0.0)
    drop_past_keys(3 * PERIOD)
    assert len(module._made[resuming]) == RING - 3
    drop_past_keys(3 * PERIOD)
    assert len(module._made[resuming]) == RING - 3
    assert context_for(server_config, DEFAULT_AEADS) is lasting


def test_preparing_what_does_not_resume(server_config: ServerConfig) -> None:
    """A server without tickets has one Context, at any time."""
    config = replace(server_config)
    prepare(config, DEFAULT_AEADS, 5 * PERIOD)
    (made,) = module._made[config].values()
    assert context_for(config, DEFAULT_AEADS, 9 * PERIOD) is made


def test_client_does_not_rotate(client_config: ClientConfig, tmp_path: Path) -> None:
    """A client has no ticket keys, and one Context."""
    config = replace(client_config, session_store=tmp_path)
    assert context_for(config, DEFAULT_AEADS) is context_for(config, DEFAULT_AEADS, 2 * PERIOD)


def test_tickets_only_where_wanted(
    client_config: ClientConfig, resuming: ServerConfig, server_config: ServerConfig, tmp_path: Path
) -> None:
    """OP_NO_TICKET is left out for those who asked for resumption, and for nobody else."""
    storing = replace(client_config, session_store=tmp_path)
    for config, wanted in (
        (client_config, False),
        (storing, True),
        (server_config, False),
        (resuming, True),
    ):
        made = context_for(replace(config), DEFAULT_AEADS)
        assert bool(made.set_options(0) & SSL.OP_NO_TICKET) is not wanted


def _spoilt(pem: bytes, good: bytes, bad: bytes) -> bytes:
    """Change some bytes of a certificate; it is signed no more, which nobody asks of an anchor."""
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    assert good in der
    return ssl.DER_cert_to_PEM_cert(der.replace(good, bad, 1)).encode()


def test_authority_that_only_openssl_understands(
    authority: trustme.CA, server_config: ServerConfig, tmp_path: Path
) -> None:
    """It is trusted, and clients are not told its name."""
    version = b"\xa0\x03\x02\x01"
    path = tmp_path / "ca.pem"
    path.write_bytes(_spoilt(authority.cert_pem.bytes(), version + b"\x02", version + b"\x03"))
    config = replace(server_config, client_trust=TrustAnchors.load(path))
    context_for(config, DEFAULT_AEADS, now=0.0)


def test_subject_that_is_no_text(authority: trustme.CA) -> None:
    """It is refused as any other certificate that OpenSSL refuses, or shown, and has a name."""
    leaf = authority.issue_cert(HOST, common_name="subject")
    chain = _spoilt(leaf.cert_chain_pems[0].bytes(), b"subject", b"\xff" * 7)
    pair = KeyPair.from_pem(chain, leaf.private_key_pem.bytes())
    assert pair.subject == "an unreadable subject"
    assert repr(pair)
    with contextlib.suppress(ConfigError):
        context_for(ServerConfig(key_pair=pair), DEFAULT_AEADS, now=0.0)
