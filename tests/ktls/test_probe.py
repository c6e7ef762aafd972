"""Tests of probe: what each kernel can do is asserted, not just recorded."""

from __future__ import annotations

import contextlib
import errno
import os
import tomllib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from pyroute2.netlink import genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from tests.doubles import own_clock
from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion
from tlsify.errors import SHORTAGES, ConfigError, KtlsUnavailable, RekeyUnsupported
from tlsify.keys import Direction
from tlsify.ktls import diag, probe, ulp

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tlsify.keys import TrafficKeys

pytestmark = pytest.mark.each_kernel

KERNELS = Path(__file__).parents[2] / "vm" / "kernels.toml"
GUEST = os.environ.get("TLSIFY_GUEST", "")
NOBODY = 65534
needs_ktls = pytest.mark.ktls
# The project's own kernels are declared; a quick lane of another build is not.
DECLARED = tomllib.loads(KERNELS.read_text("utf-8"))["kernels"]
needs_declared = pytest.mark.skipif(GUEST not in DECLARED, reason="not one of vm/kernels.toml's")


def expected() -> dict[str, Any]:
    """Return the running guest's capabilities."""
    found: dict[str, Any] = DECLARED[GUEST]["capabilities"]
    return found


# -- the declared kernels


@needs_ktls
@needs_declared
def test_suites_as_declared() -> None:
    """Exactly the declared versions, ciphers and directions carry a record."""
    declared = {
        (ProtocolVersion[f"TLSv{version.replace('.', '_')}"], Aead[cipher], Direction[way.upper()])
        for cipher, versions in expected()["suites"].items()
        for version, ways in versions.items()
        for way in ways
    }
    assert probe.capabilities().supported == declared


@needs_ktls
@needs_declared
def test_options_as_declared() -> None:
    """Rekeying and the limit of record sizes."""
    found = probe.capabilities()
    assert found.refusal is None
    assert found.rekey is expected()["rekey"]
    assert found.payload_limit is expected()["max_payload_len"]
    assert found.advisories == ()


@needs_ktls
@needs_declared
def test_polls_partial_records() -> None:
    """Only kernels before 6.5 do."""
    assert probe.polls_partial_records() is (GUEST == "6.1")


@needs_ktls
@needs_declared
def test_diag_without_privileges() -> None:
    """What sock_diag shows to nobody in particular."""
    with probe.loopback_pair() as (sock, _):
        ulp.attach(sock)
        assert diag.socket_info(sock).ulp is not None
        child = os.fork()
        if not child:
            status = 9
            try:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                status = int(diag.socket_info(sock).ulp is not None)
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == int(expected()["ulp_diag_unprivileged"])


@needs_ktls
@needs_declared
def test_handshake_upcall() -> None:
    """The kernel has the generic netlink family, or it has not."""
    with closing(GenericNetlinkSocket()) as netlink:
        if expected()["handshake_upcall"]:
            netlink.bind("handshake", genlmsg)
            return
        with pytest.raises(NetlinkError) as raised:
            netlink.bind("handshake", genlmsg)
    assert raised.value.code == errno.ENOENT


# -- the logic, on any kernel


def probed() -> probe.Capabilities:
    """Probe anew."""
    return probe.capabilities.__wrapped__()


def test_answer_is_kept() -> None:
    """One process asks once."""
    assert probe.capabilities() is probe.capabilities()


@pytest.mark.skipif(bool(GUEST), reason="this kernel has kTLS")
def test_kernel_without_ktls() -> None:
    """The refusal has the reason's code, and nothing is offloaded."""
    found = probed()
    assert found.refusal is not None
    assert found.refusal.code == "no-tls-ulp"
    assert found.refusal.errno == errno.ENOENT
    assert not any(found.offloads(suite) for suite in CipherSuite)
    assert not any(found.offloads_everywhere(aead) for aead in Aead)
    assert probe.polls_partial_records.__wrapped__() is False


def test_ulp_set_by_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even fresh sockets have a ULP, nothing can be offloaded."""

    def occupied(_sock: socket.socket) -> NoReturn:
        raise ConfigError("occupied")

    monkeypatch.setattr(ulp, "attach", occupied)
    found = probed()
    assert found.refusal is not None
    assert found.refusal.code == "ulp-preset"


def test_no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without 127.0.0.1 gets a reason, not a traceback."""

    def nowhere() -> NoReturn:
        raise OSError(errno.EADDRNOTAVAIL, "no such address")

    monkeypatch.setattr(probe, "loopback_pair", nowhere)
    found = probed()
    assert found.refusal is not None
    assert found.refusal.code == "no-loopback"
    assert found.refusal.errno == errno.EADDRNOTAVAIL


def _kept(failures: list[OSError], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return the probe with an answer of its own; its first loopback connections fail so."""
    original = probe.loopback_pair

    def pair() -> Any:
        if failures:
            raise failures.pop(0)
        return original()

    monkeypatch.setattr(probe, "loopback_pair", pair)
    return probe._kept(probe._in_want)(probed)


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (OSError(errno.EMFILE, ""), "shortage", "Too many open files"),
        (OSError(errno.ENOBUFS, ""), "shortage", "No buffer space"),
        (TimeoutError("timed out"), "no-loopback", "has timed out"),
        (
            KtlsUnavailable("TLS_TX", errno.ENOMEM, "no memory", code="no-memory"),
            "no-memory",
            "no memory",
        ),
    ],
    ids=repr,
)
def test_shortage_passes(
    monkeypatch: pytest.MonkeyPatch, failure: OSError, code: str, said: str
) -> None:
    """It is named, and the next connection tries again; what the kernel says then holds."""
    go = own_clock(monkeypatch, probe)
    wanted = probed()
    asked = _kept([failure] * 2, monkeypatch)
    for _ in range(2):
        found = asked()
        assert found.refusal is not None
        assert found.refusal.code == code
        assert said in found.refusal.sentence
        assert found.refusal.hint == SHORTAGES.get(failure.errno or 0)
        assert not found.supported
        if isinstance(failure, TimeoutError):
            go(60)
    assert asked() == wanted
    assert asked() is asked()
    go(1e9)
    assert asked() is asked()


def test_time_limit_is_not_waited_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait of seconds is not repeated for each connection."""
    go = own_clock(monkeypatch, probe)
    asked_for = 0

    def ask() -> bool:
        nonlocal asked_for
        asked_for += 1
        go(5)
        raise TimeoutError("timed out")

    asked = probe._kept(lambda _: False)(ask)
    for pause, times in ((0, 1), (59, 1), (1, 2)):
        go(pause)
        assert asked() is False
        assert asked_for == times


def test_shortage_in_the_midst(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs neither a cipher nor the change of keys, whichever call it comes in."""
    calls = fails_at = 0

    def install(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise KtlsUnavailable("TLS_RX", errno.ENOMEM, "no memory", code="no-memory")

    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    monkeypatch.setattr(ulp, "install", install)
    found = None
    while found is None:
        fails_at, calls = fails_at + 1, 0
        with contextlib.suppress(KtlsUnavailable):
            found = probed()
    assert calls == fails_at - 1 > len(Aead) * len(Direction)
    assert found.rekey

    def no_memory(*_: object) -> NoReturn:
        raise OSError(errno.ENOBUFS, "No buffer space")

    fails_at = 0
    monkeypatch.setattr(ulp, "recv_record", no_memory)
    with pytest.raises(OSError, match="No buffer space"):
        probed()


def test_kernel_that_takes_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cipher that is taken in one direction only is not offloaded."""

    def install(_sock: socket.socket, direction: Direction, keys: TrafficKeys) -> None:
        if direction is Direction.RX or keys.suite.aead is not Aead.AES_GCM_128:
            raise KtlsUnavailable("TLS_RX", errno.EINVAL, "no", code="suite-unsupported")

    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    monkeypatch.setattr(ulp, "install", install)
    found = probed()
    assert found.refusal is None
    assert found.supported == {
        (version, Aead.AES_GCM_128, Direction.TX) for version in ProtocolVersion
    }
    assert not found.offloads(CipherSuite.TLS_AES_128_GCM_SHA256)
    assert not found.payload_limit


def test_kernel_that_takes_keys_and_garbles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking a key is not enough: the record has to arrive."""
    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    monkeypatch.setattr(ulp, "install", lambda *_: None)
    # Nobody seals anything: what arrives is no record.
    found = probed()
    assert found.supported == frozenset()


def test_kernel_that_cannot_rekey(monkeypatch: pytest.MonkeyPatch) -> None:
    """EBUSY on the second key tells."""
    calls: list[TrafficKeys] = []

    def install(_sock: socket.socket, _direction: Direction, keys: TrafficKeys) -> None:
        calls.append(keys)
        if len(calls) > 1:
            raise RekeyUnsupported("TLS_TX", errno.EBUSY, "keyed")

    monkeypatch.setattr(ulp, "attach", lambda _sock: None)
    monkeypatch.setattr(ulp, "install", install)
    assert probe._try_rekey() is False
    assert len(calls) == 2
    assert calls[0].key != calls[1].key


def test_loopback_pair() -> None:
    """Two ends of one connection over 127.0.0.1, closed afterwards."""
    with probe.loopback_pair() as (ours, theirs):
        ours.sendall(b"x")
        assert theirs.recv(9) == b"x"
        assert ours.getpeername() == theirs.getsockname()
        assert ours.getpeername()[0] == "127.0.0.1"
    assert ours.fileno() == theirs.fileno() == -1
