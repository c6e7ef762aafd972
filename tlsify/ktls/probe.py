"""Capabilities: try each suite and a rekey on a loopback pair."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, cast

from tlsify.codepoints import Aead, CipherSuite, ProtocolVersion
from tlsify.errors import (
    SHORTAGES,
    ConfigError,
    KtlsUnavailable,
    PeerMisbehaved,
    ReasonCode,
    RekeyUnsupported,
)
from tlsify.keys import IV_LENGTH, Direction, TrafficKeys
from tlsify.ktls import ulp
from tlsify.ktls.advisories import Advisory, known_bad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from functools import _Wrapped

T = TypeVar("T")
# What a try may fail with.
_Failure: TypeAlias = "KtlsUnavailable | RekeyUnsupported | OSError"

_PROBE_TIMEOUT = 5.0
# Seconds until connections wait once more for a host whose loopback drops packets.
_REST = 60.0
# Milliseconds; over loopback the bytes are there before sendall returns.
_PARTIAL_RECORD_WAIT = 5


def _refuse_passing(error: _Failure) -> None:
    """Raise an error that says nothing of the kernel: a shortage, or a wait that was too long."""
    if error.errno in SHORTAGES or isinstance(error, TimeoutError):
        raise error


def _kept(
    in_want: Callable[[_Failure], T],
) -> Callable[[Callable[[], T]], _Wrapped[[], T, [], T]]:
    """Keep an answer for the life of the process, unless a shortage or a time limit has made it.

    Args:
        in_want: returns the answer if asking has raised a passing error.
    """

    def keep(ask: Callable[[], T]) -> _Wrapped[[], T, [], T]:
        until, answer = 0.0, cast("T | None", None)

        @wraps(ask)
        def asked() -> T:
            nonlocal until, answer
            if answer is None or time.monotonic() >= until:
                try:
                    answer, until = ask(), inf
                except (KtlsUnavailable, RekeyUnsupported, OSError) as exc:
                    answer = in_want(exc)
                    until = time.monotonic() + _REST if isinstance(exc, TimeoutError) else 0.0
            return answer

        return asked

    return keep


class Refusal(NamedTuple):
    """Reason why this kernel offloads nothing, in the form of `KtlsUnavailable`."""

    errno: int
    code: str
    sentence: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities of this kernel for this process, found by trying.

    Attributes:
        refusal: why nothing at all can be offloaded, or None.
        supported: each version, cipher and direction that carried a record.
        rekey: whether a second TLS 1.3 key can be installed.
        payload_limit: whether records can be kept short (TLS_TX_MAX_PAYLOAD_LEN).
        advisories: bugs that this kernel is known to have.
    """

    refusal: Refusal | None
    supported: frozenset[tuple[ProtocolVersion, Aead, Direction]]
    rekey: bool
    payload_limit: bool
    advisories: tuple[Advisory, ...]

    def offloads(self, suite: CipherSuite) -> bool:
        """Return whether both directions of a suite can be the kernel's."""
        return all((suite.version, suite.aead, d) in self.supported for d in Direction)

    def offloads_everywhere(self, aead: Aead) -> bool:
        """Return whether a cipher can be offloaded in both directions of both versions."""
        return all(
            (version, aead, direction) in self.supported
            for version in ProtocolVersion
            for direction in Direction
        )


@contextmanager
def loopback_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect two TCP sockets on 127.0.0.1; 0.0.0.0 means something else in containers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(_PROBE_TIMEOUT)
        # Without create_connection, which looks addresses up: that imports IDNA's tables, and all
        # clients come here.
        with closing(socket.socket()) as ours:
            ours.settimeout(_PROBE_TIMEOUT)
            ours.connect(listener.getsockname())
            theirs, _ = listener.accept()
            with closing(theirs):
                theirs.settimeout(_PROBE_TIMEOUT)
                yield ours, theirs


def _keys(suite: CipherSuite) -> TrafficKeys:
    """Make throw-away keys; both ends of a loopback pair die with them."""
    return TrafficKeys(
        suite, bytearray(os.urandom(suite.aead.key_length)), bytearray(os.urandom(IV_LENGTH)), 0
    )


def _try_suite(suite: CipherSuite) -> Iterator[Direction]:
    """Carry one record under a suite, and name the directions that took the key."""
    keys = _keys(suite)
    with loopback_pair() as (sender, receiver):
        taken = []
        for sock, direction in ((sender, Direction.TX), (receiver, Direction.RX)):
            ulp.attach(sock)
            try:
                ulp.install(sock, direction, keys)
            except KtlsUnavailable as exc:
                _refuse_passing(exc)
                continue
            taken.append(direction)
        if len(taken) == len(Direction):
            sender.sendall(b"probe")
            try:
                record = ulp.recv_record(receiver, 16)
            except PeerMisbehaved:
                return
            except OSError as exc:
                _refuse_passing(exc)
                return
            if record is None or record.payload != b"probe":
                return
        yield from taken


def _try_rekey() -> bool:
    keys = _keys(CipherSuite.TLS_AES_128_GCM_SHA256)
    with loopback_pair() as (sock, _):
        ulp.attach(sock)
        try:
            ulp.install(sock, Direction.TX, keys)
            ulp.install(sock, Direction.TX, _keys(keys.suite))
        except (KtlsUnavailable, RekeyUnsupported) as exc:
            _refuse_passing(exc)
            return False
    return True


@_kept(lambda _: False)
def polls_partial_records() -> bool:
    """Return whether poll reports a socket readable on which only part of a record has come.

    Kernels before 6.5 do, so that a slow peer makes a level-triggered loop spin. Where a sandbox
    allows no listening, which only later ones can forbid, that is an answer, too.
    """
    suite = CipherSuite.TLS_AES_128_GCM_SHA256
    with ExitStack() as stack:
        try:
            sender, receiver = stack.enter_context(loopback_pair())
            ulp.attach(receiver)
            ulp.install(receiver, Direction.RX, _keys(suite))
        except (KtlsUnavailable, PermissionError) as exc:
            _refuse_passing(exc)
            return False
        sender.sendall(b"\x17\x03\x03\x00\x40partial")
        poller = select.poll()
        poller.register(receiver, select.POLLIN)
        return bool(poller.poll(_PARTIAL_RECORD_WAIT))


def _one_suite_each() -> Iterator[CipherSuite]:
    """The kernel knows versions and ciphers, not how keys were exchanged."""
    seen = set()
    for suite in CipherSuite:
        if (suite.version, suite.aead) not in seen:
            seen.add((suite.version, suite.aead))
            yield suite


def _refused(errno: int, code: str, sentence: str, hint: str | None = None) -> Capabilities:
    uname = os.uname()
    return Capabilities(
        refusal=Refusal(errno, code, sentence, hint),
        supported=frozenset(),
        rekey=False,
        payload_limit=False,
        advisories=known_bad(uname.release, uname.version),
    )


def _in_want(error: _Failure) -> Capabilities:
    """Return the answer as long as the kernel cannot be tried."""
    number = error.errno or 0
    if isinstance(error, KtlsUnavailable):
        return _refused(number, error.code, error.sentence, SHORTAGES.get(number))
    if isinstance(error, TimeoutError):
        sentence = "a TCP connection over 127.0.0.1, to try kernel TLS with, has timed out"
        return _refused(number, ReasonCode.NO_LOOPBACK, sentence)
    sentence = f"{os.strerror(number)}: kernel TLS cannot be tried out now"
    return _refused(number, ReasonCode.SHORTAGE, sentence, SHORTAGES.get(number))


@_kept(_in_want)
def capabilities() -> Capabilities:
    """Try everything once; the answer holds for the life of the process."""
    try:
        with loopback_pair() as (sock, _):
            ulp.attach(sock)
            payload_limit = ulp.can_limit_payload(sock)
        supported = frozenset(
            (suite.version, suite.aead, direction)
            for suite in _one_suite_each()
            for direction in _try_suite(suite)
        )
        rekey = _try_rekey()
    except KtlsUnavailable as exc:
        _refuse_passing(exc)
        return _refused(exc.errno, exc.code, exc.sentence, exc.hint)
    except ConfigError as exc:
        return _refused(0, ReasonCode.ULP_PRESET, str(exc), exc.hint)
    except OSError as exc:
        _refuse_passing(exc)
        return _refused(
            exc.errno or 0, ReasonCode.NO_LOOPBACK, "no TCP connection over 127.0.0.1", None
        )
    uname = os.uname()
    return Capabilities(
        refusal=None,
        supported=supported,
        rekey=rekey,
        payload_limit=payload_limit,
        advisories=known_bad(uname.release, uname.version),
    )
