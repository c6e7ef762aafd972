"""Tests of serialize."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given
from hypothesis import strategies as st

from tlsify.codepoints import CipherSuite, ProtocolVersion
from tlsify.credentials.parse import parse_certificates
from tlsify.errors import ConfigError
from tlsify.tls.messages import MAX_TICKET_MESSAGE
from tlsify.tls.negotiated import Negotiated
from tlsify.tls.ration import MOST, Ration
from tlsify.tls.serialize import export_secrets, restore
from tlsify.tls.session import Session

if TYPE_CHECKING:
    import trustme
    from cryptography import x509

TLS13 = ProtocolVersion.TLSv1_3
SECRET_LENGTH = {"sha256": 32, "sha384": 48}


def _negotiated(suite: CipherSuite) -> Negotiated:
    return Negotiated(
        suite=suite,
        alpn=b"h2",
        server_name="example.org",
        certificate=None,
        group="X25519MLKEM768",
        resumed=True,
        max_fragment_length=512,
    )


def _session(suite: CipherSuite, *, can_rekey: bool = False) -> Session:
    length = SECRET_LENGTH[suite.hash_name] if can_rekey else 0
    return Session(
        suite,
        is_client=True,
        can_rekey=can_rekey,
        tx_secret=bytearray(b"t" * length),
        rx_secret=bytearray(b"r" * length),
        ration=Ration(17),
        unfinished=bytearray(b"\x04\0\0"),
        update_due=can_rekey,
    )


def _state(suite: CipherSuite = CipherSuite.TLS_AES_128_GCM_SHA256) -> bytearray:
    can_rekey = suite.version is TLS13
    return export_secrets(_negotiated(suite), _session(suite, can_rekey=can_rekey))


each_suite = pytest.mark.parametrize("suite", CipherSuite, ids=lambda it: it.name)


@each_suite
@pytest.mark.parametrize("can_rekey", [True, False])
def test_round_trip(suite: CipherSuite, *, can_rekey: bool) -> None:
    """What comes out is what went in, but for the kernel's keys."""
    can_rekey = can_rekey and suite.version is TLS13
    session, negotiated = _session(suite, can_rekey=can_rekey), _negotiated(suite)
    restored, other = restore(export_secrets(negotiated, session), can_rekey=True)
    for field in dataclasses.fields(Session):
        if field.init:
            assert getattr(other, field.name) == getattr(session, field.name), field.name
    assert restored == negotiated


@given(flags=st.lists(st.booleans(), min_size=5, max_size=5), budget=st.integers(0, 2**32 - 1))
def test_every_flag(flags: list[bool], budget: int) -> None:
    """Each is kept by itself; a budget is never more than a new connection's."""
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    is_client, peer_closed, close_notify_sent, update_due, resumed = flags
    session = dataclasses.replace(
        _session(suite, can_rekey=True),
        is_client=is_client,
        peer_closed=peer_closed,
        close_notify_sent=close_notify_sent,
        update_due=update_due,
        ration=Ration(budget),
    )
    negotiated = dataclasses.replace(_negotiated(suite), resumed=resumed)
    restored, other = restore(export_secrets(negotiated, session), can_rekey=True)
    found = [other.is_client, other.peer_closed, other.close_notify_sent, other.update_due]
    assert [*found, restored.resumed] == flags
    assert other.ration.left == min(budget, MOST)


def test_nothing_optional() -> None:
    """What was not negotiated comes back as such."""
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    bare = dataclasses.replace(
        _negotiated(suite), alpn=None, server_name=None, group="", max_fragment_length=None
    )
    restored, session = restore(export_secrets(bare, Session(suite, False)), can_rekey=True)
    assert (restored.alpn, restored.server_name, restored.max_fragment_length) == (None,) * 3
    assert restored.peer_certificate is None
    # Where the first process could not rekey it had no secrets to give.
    assert not session.can_rekey


def test_certificate(authority: trustme.CA) -> None:
    """The peer's comes along."""
    certificate: x509.Certificate = parse_certificates(authority.cert_pem.bytes(), "it")[0]
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    with_it = dataclasses.replace(
        _negotiated(suite), certificate=certificate.public_bytes(Encoding.DER)
    )
    restored, _ = restore(export_secrets(with_it, _session(suite)), can_rekey=False)
    assert restored.peer_certificate == certificate


def test_kernel_that_cannot_rekey() -> None:
    """Secrets or not, nothing is promised that the kernel does not keep."""
    _, session = restore(_state(), can_rekey=False)
    assert not session.can_rekey


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    """Whatever is no state is refused in so many words."""
    with pytest.raises(ConfigError, match="invalid session state"):
        restore(data, can_rekey=True)


@given(data=st.data(), suite=st.sampled_from(CipherSuite))
def test_mutated(data: st.DataObject, suite: CipherSuite) -> None:
    """A damaged state is refused, or is a state still; nothing else comes of it."""
    state = _state(suite)
    for _ in range(data.draw(st.integers(1, 4))):
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set" if state:
                state[data.draw(st.integers(0, len(state) - 1))] = data.draw(st.integers(0, 255))
            case "cut":
                del state[data.draw(st.integers(0, len(state))) :]
            case _:
                place = data.draw(st.integers(0, len(state)))
                state[place:place] = data.draw(st.binary(min_size=1, max_size=8))
    _check(state)


@given(certificate=st.binary(min_size=1, max_size=60))
def test_damaged_certificate(certificate: bytes) -> None:
    """Nobody's certificate, either."""
    state = _state()
    fixed, lengths = 19, 4
    head = fixed + lengths + 2 + lengths + len("example.org")
    assert state[head : head + lengths] == bytes(lengths)
    state[head : head + lengths] = len(certificate).to_bytes(lengths, "big") + certificate
    _check(state)


def test_truncated_certificate(authority: trustme.CA) -> None:
    """A real one with any byte changed is refused, or is one still."""
    certificate = parse_certificates(authority.cert_pem.bytes(), "it")[0]
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    with_it = dataclasses.replace(
        _negotiated(suite), certificate=certificate.public_bytes(Encoding.DER)
    )
    state = export_secrets(with_it, _session(suite))
    for place in range(len(state)):
        for change in (1, 0x80):
            damaged = bytearray(state)
            damaged[place] ^= change
            _check(damaged)


def _check(state: bytearray) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # an odd certificate
            _, session = restore(state, can_rekey=True)
    except ConfigError:
        return
    assert session.ration.left <= MOST
    assert len(session.unfinished) < MAX_TICKET_MESSAGE + 4
    if session.can_rekey:
        length = SECRET_LENGTH[session.suite.hash_name]
        assert len(session.tx_secret) == len(session.rx_secret) == length


@pytest.mark.parametrize("length", [0, 1, 18, 19, 22])
def test_cut_short(length: int) -> None:
    """Not even the fixed part, or nothing behind it."""
    with pytest.raises(ConfigError):
        restore(_state()[:length], can_rekey=True)


def test_trailing_bytes() -> None:
    """All of it has to be understood."""
    with pytest.raises(ConfigError):
        restore(_state() + b"\0", can_rekey=True)


def test_other_version_of_the_format() -> None:
    """A state of another version of tlsify is not guessed at."""
    state = _state()
    state[7] += 1
    with pytest.raises(ConfigError, match="invalid session state") as raised:
        restore(state, can_rekey=True)
    assert "same version of tlsify" in raised.value.hint
