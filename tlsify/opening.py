"""THE decision: kernel or relay; commits keys once; returns Handoff."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING

from tlsify import handshake
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.control import Channel
from tlsify.errors import (
    KtlsCommitError,
    KtlsError,
    KtlsUnavailable,
    TlsifyError,
)
from tlsify.handoff import Handoff, Offload, Reason
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.probe import Capabilities, capabilities
from tlsify.relay import Relay
from tlsify.tickets import Intake, Origin, TicketStore
from tlsify.tls import context
from tlsify.tls.engine import Engine
from tlsify.tls.harvest import Harvest
from tlsify.tls.session import Session
from tlsify.tls.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.tickets import Slot
    from tlsify.tls.negotiated import Negotiated

_log = logging.getLogger("tlsify")


def connect(sock: socket.socket, config: ClientConfig, policy: KtlsPolicy | None = None) -> Handoff:
    """Do a client's handshake and hand the connection over.

    Args:
        sock: connected TCP socket, which belongs to tlsify from here on: whatever goes wrong, it
            is closed.
        config: whom to accept.
        policy: when to offload; AUTO if None.

    Raises:
        ConfigError: the configuration or the socket is unusable; nothing was sent.
        IdentityError: the peer is not one of those accepted.
        HandshakeError: the handshake failed.
        DeadlineExceeded: it took longer than ``config.timeout``.
        KtlsUnavailable: the policy requires the kernel, which cannot.
        KtlsCommitError: the kernel took one direction only.
        OSError: the connection broke.
    """
    return _hand_over(sock, config, policy)


def accept(sock: socket.socket, config: ServerConfig, policy: KtlsPolicy | None = None) -> Handoff:
    """Do a server's handshake on an accepted socket and hand the connection over.

    Arguments and errors are those of `connect`.
    """
    return _hand_over(sock, config, policy)


def _hand_over(
    sock: socket.socket, config: ClientConfig | ServerConfig, policy: KtlsPolicy | None
) -> Handoff:
    with closed_on_error(sock):
        opening = Opening(sock, config, policy or KtlsPolicy())
        handshake.run(sock, opening.engine, config.timeout)
        return opening.commit()


@contextlib.contextmanager
def closed_on_error(sock: socket.socket) -> Iterator[None]:
    """Close a socket if the block fails, since nobody can go on with half a TLS connection."""
    try:
        yield
    except BaseException:
        sock.close()
        raise


class Opening:
    """A connection between ``connect``/``accept`` and its hand-over.

    The ULP is attached before the handshake, so that a peer's early FIN cannot prevent it and
    availability is known before the first byte is written. Until the first key is installed any
    refusal leads to the relay; afterwards none does (design note 0003).
    """

    def __init__(
        self, sock: socket.socket, config: ClientConfig | ServerConfig, policy: KtlsPolicy
    ) -> None:
        """Attach the ULP if the policy wants it, and start the engine.

        Raises:
            KtlsUnavailable: the policy requires the kernel, which cannot.
            ConfigError: the configuration or the socket is unusable.
        """
        self._sock = sock
        self._policy = policy
        self._reason = self._attempt(self._attach, config.aeads)
        aeads = self._aeads(config.aeads)
        self._slot = _slot(sock, config, aeads) if isinstance(config, ClientConfig) else None
        session = None if self._slot is None else self._slot.session
        self.engine = Engine(config, aeads, session, time.monotonic())

    def commit(self) -> Handoff:
        """Install the keys, or start the relay; the handshake must be finished and flushed.

        Raises:
            KtlsUnavailable: the policy requires the kernel, which cannot; the peer was told.
            KtlsCommitError: RX is the kernel's and TX was refused.
        """
        negotiated = self.engine.result()
        if negotiated is None:
            msg = "commit before the end of the handshake"
            raise TlsifyError(msg)
        try:
            if self._reason is None:
                self._reason = self._attempt(self._install_rx, negotiated)
            if self._reason is not None:
                return self._start_relay(negotiated, self._reason)
            try:
                ulp.install(self._sock, Direction.TX, negotiated.tx)
            except KtlsError as exc:
                raise KtlsCommitError(
                    exc.step, exc.errno, "the kernel took RX but not TX", hint=_REPORT
                ) from exc
            channel = Channel(self._sock, self._session(negotiated), self._intake(negotiated))
        except KtlsError:
            self._say_goodbye()
            raise
        finally:
            negotiated.wipe()
        self.engine.release()
        return Handoff(self._sock, Offload.KERNEL, None, negotiated, channel, None)

    def _intake(self, negotiated: Negotiated) -> Intake | None:
        """Keep what TLS 1.2 can resume with; give what takes TLS 1.3's tickets when they come."""
        if self._slot is None:
            return None
        if negotiated.version is ProtocolVersion.TLSv1_3:
            return Intake(Harvest(self.engine), self._slot)
        found = self.engine.resumable()
        if found is not None:
            self._slot.keep(found)
        return None

    def _session(self, negotiated: Negotiated) -> Session:
        """Keep the traffic secrets where a key may follow, and nowhere else."""
        is_client = self.engine.is_client
        if not (capabilities().rekey and negotiated.version is ProtocolVersion.TLSv1_3):
            return Session(negotiated.suite, is_client)
        return Session(
            negotiated.suite,
            is_client,
            can_rekey=True,
            tx_secret=bytearray(negotiated.tx_secret),
            rx_secret=bytearray(negotiated.rx_secret),
        )

    def _attempt(self, step: Callable[..., None], *args: object) -> Reason | None:
        """Try a step of the offload; a refusal becomes the reason for the relay, or an error."""
        try:
            step(*args)
        except KtlsUnavailable as exc:
            if self._policy.mode is KtlsMode.REQUIRE:
                raise
            return Reason(exc.code, str(exc), exc.hint)
        return None

    def _attach(self, wanted: tuple[Aead, ...]) -> None:
        if (refusal := host_refusal(self._policy)) is not None:
            raise refusal
        if not any(map(capabilities().offloads_everywhere, wanted)):
            raise _refusal("suite-unsupported", "this kernel takes none of the ciphers", _ASK)
        ulp.attach(self._sock)

    def _aeads(self, wanted: tuple[Aead, ...]) -> tuple[Aead, ...]:
        return wanted if self._reason is not None else _offloadable(wanted, self._policy)

    def _install_rx(self, negotiated: Negotiated) -> None:
        """Do everything that may still fail without consequences, and the first key last."""
        self._check_suite(negotiated, capabilities())
        if negotiated.max_fragment_length is not None:
            ulp.limit_payload(self._sock, negotiated.max_fragment_length)
        # A low-water mark above the queued bytes keeps the kernel's record parser asleep.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        ulp.install(self._sock, Direction.RX, negotiated.rx)

    def _check_suite(self, negotiated: Negotiated, found: Capabilities) -> None:
        suite = negotiated.suite
        if not found.offloads(suite):
            raise _refusal("suite-unsupported", f"this kernel does not take {suite.name}", _ASK)
        is_tls13 = suite.version is ProtocolVersion.TLSv1_3
        if self._policy.rekey_required and is_tls13 and not found.rekey:
            raise _refusal(
                "no-rekey",
                "this kernel cannot follow a TLS 1.3 KeyUpdate",
                "use Linux 6.14 or later, or drop --ktls-rekey=require",
            )

    def _start_relay(self, negotiated: Negotiated, reason: Reason) -> Handoff:
        _log.debug("relayed: %s: %s", reason.code, reason.sentence)
        keep = self._slot.keep if self._slot is not None else None
        relay = Relay(self._sock, Tunnel(self.engine), keep)
        relay.start()
        return Handoff(relay.program_end, Offload.RELAY, reason, negotiated, None, relay)

    def _say_goodbye(self) -> None:
        """Tell the peer of a finished handshake that nothing will follow: TX is still ours."""
        tunnel = Tunnel(self.engine)
        tunnel.close()
        with contextlib.suppress(OSError):
            self._sock.sendall(tunnel.output())


def prepare(config: ServerConfig, policy: KtlsPolicy) -> None:
    """Make what connections share, before workers are forked: the keys of tickets above all.

    Raises:
        ConfigError: OpenSSL refuses the certificate or its key.
    """
    context.prepare(config, config.aeads, time.monotonic())
    if host_refusal(policy) is None:
        context.prepare(config, _offloadable(config.aeads, policy), time.monotonic())


def drop_past_keys() -> None:
    """Forget the ticket keys whose time is over; for processes that sit and wait."""
    context.drop_past_keys(time.monotonic())


def _offloadable(wanted: tuple[Aead, ...], policy: KtlsPolicy) -> tuple[Aead, ...]:
    """Negotiate first, or only, what this kernel can take."""
    found = capabilities()
    offloaded = tuple(aead for aead in wanted if found.offloads_everywhere(aead))
    if policy.mode is KtlsMode.REQUIRE:
        return offloaded
    return offloaded + tuple(aead for aead in wanted if aead not in offloaded)


def _slot(sock: socket.socket, config: ClientConfig, aeads: tuple[Aead, ...]) -> Slot | None:
    """Take a session to resume from the caller's store, if there is one."""
    if config.session_store is None:
        return None
    store = TicketStore(config.session_store)
    try:
        address = sock.getpeername()
    except OSError:  # gone already; the handshake will say so
        return None
    return store.slot(Origin.of(config, address, aeads))


def host_refusal(policy: KtlsPolicy) -> KtlsUnavailable | None:
    """Say why no connection at all would be offloaded here, or None if they would be."""
    if policy.mode is KtlsMode.OFF:
        return _refusal("policy-off", "kernel TLS is switched off", "start with --ktls")
    found = capabilities()
    if found.refusal is not None:
        number, code, sentence, hint = found.refusal
        return KtlsUnavailable("TCP_ULP", number, sentence, code=code, hint=hint)
    if found.advisories and not policy.any_kernel:
        worst = found.advisories[0]
        return _refusal(
            "known-bad-kernel",
            f"this kernel has {worst.cve}: {worst.effect}",
            "update the kernel, or accept the risk with --ktls-any-kernel",
        )
    return None


_ASK = "see which ones it takes with tlsify check"
_REPORT = "the probe said that this suite works here: please report this kernel's version"


def _refusal(code: str, sentence: str, hint: str) -> KtlsUnavailable:
    return KtlsUnavailable("ktls", 0, sentence, code=code, hint=hint)
