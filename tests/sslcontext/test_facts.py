"""Tests of facts."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tests.certificate_samples import SAMPLES, VICTIM, facts_of, make_certificate
from tests.conftest import HOST, issue
from tests.doubles import OFFLOADS, RELAY, VERSIONS, Endpoint, Lab
from tlsify.config import ServerConfig
from tlsify.connection.establish import accept
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.parse import parse_certificates
from tlsify.sslcontext.facts import TLSInfo

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

    from tlsify.codepoints import ProtocolVersion
    from tlsify.config import KtlsPolicy
    from tlsify.credentials.key_pair import KeyPair


def _python_says(der: bytes, folder: Path) -> Any:
    path = folder / "certificate.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(der))
    return ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.filterwarnings("default")
def test_certificate_as_python_shows_it(tmp_path: Path, sample: str) -> None:
    """Field by field what `ssl` makes of the same certificate."""
    der = make_certificate(*SAMPLES[sample])
    assert facts_of(der).getpeercert() == _python_says(der, tmp_path)


def test_real_certificate_as_python_shows_it(tmp_path: Path, authority: trustme.CA) -> None:
    """So it is with one that an authority issued."""
    der = issue(authority, HOST, "127.0.0.1").chain[0].public_bytes(Encoding.DER)
    assert facts_of(der).getpeercert() == _python_says(der, tmp_path)


def test_other_forms_of_the_certificate() -> None:
    """DER as it came; nothing if there is none; an empty one if nobody judged it."""
    der = make_certificate(*SAMPLES["plain"])
    assert facts_of(der).getpeercert(binary_form=True) == der
    assert facts_of(der).peer_name == "a"
    assert facts_of(None).getpeercert() is None
    assert facts_of(None).getpeercert(binary_form=True) is None
    assert facts_of(None).peer_name == ""
    assert facts_of(der, verified=False).getpeercert() == {}
    assert facts_of(der, verified=False).getpeercert(binary_form=True) == der
    with pytest.raises(NotImplementedError, match="keep_chain"):
        facts_of(der).chain()


@given(st.data())
def test_hostile_certificate(data: st.DataObject) -> None:
    """Whatever a peer wrote: an answer, or an empty one; never an error."""
    der = bytearray(VICTIM)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(facts_of(bytes(der)).getpeercert(), dict)
    assert isinstance(facts_of(bytes(der)).peer_name, str)


@given(st.binary(max_size=60))
def test_no_certificate_at_all(garbage: bytes) -> None:
    """Bytes that are none."""
    assert facts_of(garbage).getpeercert() == {}


@pytest.mark.parametrize("policy", OFFLOADS)
@pytest.mark.parametrize("version", VERSIONS)
def test_connection_as_python_shows_it(
    lab: Lab, key_pair: KeyPair, authority: trustme.CA, policy: KtlsPolicy, version: ProtocolVersion
) -> None:
    """Version, suite and protocol as the other side's `ssl` tells them; the SNI and the offload."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.set_alpn_protocols(["http/1.1"])
    context.maximum_version = ssl.TLSVersion(version)
    authority.issue_cert("client.example", common_name="who").configure_cert(context)
    ours, theirs = lab.tcp()
    trust = TrustAnchors(parse_certificates(authority.cert_pem.bytes(), "the test authority"))
    config = ServerConfig(key_pair=key_pair, client_trust=trust, alpn=(b"h2", b"http/1.1"))
    other = Endpoint(lambda: lab.keep(accept(theirs, config, policy)))
    with context.wrap_socket(ours, server_hostname=HOST) as peer:
        facts = TLSInfo(other.result())
        assert facts.version() == peer.version() == version.label
        assert facts.cipher() == peer.cipher()
        assert facts.selected_alpn_protocol() == peer.selected_alpn_protocol() == "http/1.1"
        assert facts.server_hostname == HOST
        assert facts.session_reused is False
        assert facts.ktls == ("policy-off" if policy is RELAY else "kernel")
        assert facts.peer_name == "who"
