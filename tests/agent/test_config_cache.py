"""Tests of config_cache."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.want import no_descriptors
from tlsify.agent import ClientRequest, ServerRequest, config_cache
from tlsify.agent.config_cache import Configs, policy
from tlsify.codepoints import DEFAULT_AEADS, Aead, ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.errors import ConfigError
from tlsify.names import ReferenceIdentifier

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

    from tests.agent.harness import Files
    from tlsify.credentials.key_pair import KeyPair

A = "dns:a.example"


def client(request: ClientRequest, source: Configs | None = None) -> ClientConfig:
    """Ask for a client's configuration."""
    found = (source or Configs()).find(request)
    assert isinstance(found, ClientConfig)
    return found


def server(source: Configs, **values: Any) -> ServerConfig:
    """Ask for a server's."""
    found = source.find(ServerRequest(**values))
    assert isinstance(found, ServerConfig)
    return found


def test_client(files: Files, tmp_path: Path) -> None:
    """Everything that is asked for is in the configuration."""
    config = client(
        ClientRequest(
            server_name="a.example",
            identities=(A, "ip:::1"),
            trust=str(files.trust),
            alpn=(b"h2", b"http/1.1"),
            versions=(0x0304,),
            aeads=("AES_GCM_256",),
            groups=("P-384",),
            session_store=str(tmp_path / "sessions"),
            certificate=str(files.certificate),
            key=str(files.key),
            pins=(bytes(32),),
            key_log=str(tmp_path / "log"),
        )
    )
    assert config.server_name == "a.example"
    assert config.identities == tuple(map(ReferenceIdentifier.parse, (A, "ip:::1")))
    assert config.verify
    assert config.trust.lookup is not None
    assert config.alpn == (b"h2", b"http/1.1")
    assert config.versions == {ProtocolVersion.TLSv1_3}
    assert config.aeads == (Aead.AES_GCM_256,)
    assert config.groups == ("P-384",)
    assert config.session_store == tmp_path / "sessions"
    assert config.key_pair is not None
    assert config.pins == (bytes(32),)
    assert config.key_log == tmp_path / "log"


def test_names_as_they_were_typed() -> None:
    """Whoever asks, the agent sends and compares the canonical form."""
    config = client(ClientRequest(server_name="Ü.example.", identities=("dns:Ü.example.",)))
    assert config.server_name == "xn--tda.example"
    assert list(map(str, config.identities)) == ["dns:xn--tda.example"]
    assert client(ClientRequest(server_name="fe80::1%lo", identities=(A,))).server_name is None


def test_defaults() -> None:
    """What is not said is as it is without an agent."""
    ours, usual = client(ClientRequest(identities=(A,))), ClientConfig.for_host("a.example")
    for name in ("versions", "aeads", "alpn", "verify", "session_store", "key_pair", "pins"):
        assert getattr(ours, name) == getattr(usual, name)
    assert ours.trust.lookup is None


def test_same_request_same_configuration(files: Files) -> None:
    """One that differs in the time it allows, or in the policy, is the same to OpenSSL."""
    source = Configs()
    request = ClientRequest(identities=(A,), trust=str(files.trust))
    first = client(request, source)
    assert client(request, source) is first
    assert client(request.but(timeout=1.0, ktls="off", any_kernel=True), source) is first
    assert client(request.but(server_name="b"), source) is not first


def test_changed_file(files: Files, tmp_path: Path) -> None:
    """A file that has changed is read again, and one that is gone is missed."""
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(files.trust.read_bytes())
    source, request = Configs(), ClientRequest(identities=(A,), trust=str(anchors))
    first = client(request, source)
    assert client(request, source) is first
    os.utime(anchors, ns=(1, 1))
    assert client(request, source) is not first
    anchors.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        client(request, source)


def test_nothing_is_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's trust anchors change, too."""
    source, request = Configs(), ClientRequest(identities=(A,))
    first = client(request, source)
    later = time.monotonic() + config_cache._FRESH + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert client(request, source) is not first


def test_bounded(files: Files) -> None:
    """However many requests differ, only so many are remembered: those asked for last."""
    source = Configs()
    often = ClientRequest(identities=(A,), trust=str(files.trust))
    first = client(often, source)
    rare = often.but(server_name="rare")
    before = client(rare, source)
    for number in range(config_cache._KEPT):
        client(often.but(server_name=f"{number}.example"), source)
        assert client(often, source) is first
    assert client(rare, source) is not before


def test_server(key_pair: KeyPair, files: Files) -> None:
    """A server is made of a key that the agent has."""
    source = Configs({"a": key_pair, "b": key_pair}, alpn=(b"h2",), resumption=True)
    config = server(
        source,
        key_pair="b",
        alpn=(b"x",),
        client_trust=str(files.trust),
        client_required=True,
        client_identities=(A,),
    )
    assert config.key_pair is key_pair
    assert config.resumption
    assert config.alpn == (b"x",)
    assert config.client_required
    assert config.client_trust is not None
    assert config.client_identities == (ReferenceIdentifier.parse(A),)
    assert server(source).alpn == (b"h2",)


def test_prepared(key_pair: KeyPair) -> None:
    """What workers share is what the usual requests get: the keys of tickets go with it."""
    source = Configs({"a": key_pair, "b": key_pair}, alpn=(b"h2",), resumption=True)
    source.prepare(KtlsPolicy())
    first = server(source)
    assert first in source._prepared.values()
    assert server(source, key_pair="a", alpn=(b"h2",), timeout=3.0) is first
    spelled_out = {"versions": (0x0304, 0x0303), "aeads": tuple(a.value for a in DEFAULT_AEADS)}
    assert server(source, **spelled_out) is first
    assert server(source, versions=(0x0304,)) is not first
    assert server(source, key_pair="b") in source._prepared.values()
    assert server(source, key_pair="b") is not first
    assert server(source, alpn=(b"x",)) not in source._prepared.values()


def test_no_descriptor_for_changed_files(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key pair stays as it was, and is read once there is a descriptor to read it with."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(files.certificate.read_bytes())
    key.write_bytes(files.key.read_bytes())
    source = Configs.of_files({"a": (chain, key)})
    before = server(source).key_pair
    os.utime(chain, ns=(1, 1))
    with no_descriptors():
        assert server(source).key_pair is before
    assert "reload failed, keeping the current key pair a" in caplog.text
    assert "EMFILE" in caplog.text
    assert server(source).key_pair is not before


def test_pair_that_is_being_replaced(
    authority: trustme.CA,
    files: Files,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key that awaits its certificate makes no warning, unless it stays alone."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(files.certificate.read_bytes())
    key.write_bytes(files.key.read_bytes())
    source = Configs.of_files({"a": (chain, key)})
    before = server(source).key_pair
    leaf = authority.issue_cert("b.example")
    leaf.private_key_pem.write_to_path(str(key))
    for _ in range(2):
        assert server(source).key_pair is before
    assert not caplog.records
    later = time.monotonic() + config_cache._SETTLE
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: later)
        for _ in range(2):
            assert server(source).key_pair is before
    (record,) = caplog.records
    assert "reload failed, keeping the current key pair a" in record.getMessage()
    leaf.cert_chain_pems[0].write_to_path(str(chain))
    after = server(source).key_pair
    assert after is not None
    assert after is not before
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"identities": ()}, "no reference identifier"),
        ({"identities": ("nonsense",)}, "not a reference identifier"),
        ({"trust": "relative.pem"}, "no absolute path"),
        ({"trust": "/nonexistent"}, "cannot read"),
        ({"session_store": "here"}, "no absolute path"),
        ({"crls": "/dev/zero"}, "is no file"),
        ({"certificate": "/nonexistent", "key": "/nonexistent"}, "cannot read"),
        ({"versions": (0x0301,)}, "769"),
        ({"aeads": ("ROT13",)}, "ROT13"),
        ({"pins": (b"short",)}, "pin"),
        ({"alpn": (b"",)}, "ALPN"),
    ],
)
def test_impossible(values: dict[str, Any], why: str) -> None:
    """What makes no sense is refused as it is without an agent, each time."""
    source, request = Configs(), ClientRequest(**{"identities": (A,), **values})
    for _ in range(2):
        with pytest.raises(ConfigError, match=why):
            source.find(request)


def test_keys_that_are_not_there(key_pair: KeyPair) -> None:
    """Without a key, or with another, there is no server."""
    with pytest.raises(ConfigError, match="no key for servers"):
        Configs().find(ServerRequest())
    with pytest.raises(ConfigError, match="no key pair c"):
        Configs({"a": key_pair}).find(ServerRequest(key_pair="c"))


def test_policy() -> None:
    """The policy is the request's."""
    asked = ClientRequest(ktls="require", rekey_required=True, any_kernel=True)
    assert policy(asked) == KtlsPolicy(KtlsMode.REQUIRE, rekey_required=True, any_kernel=True)
    assert policy(ServerRequest()) == KtlsPolicy()
    with pytest.raises(ConfigError, match="maybe"):
        policy(ClientRequest(ktls="maybe"))
