"""THE decision: kernel or relay; commits keys once; returns Handoff."""

from __future__ import annotations

import contextlib
import logging
import socket
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Self

from tlsify import control, handshake
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import ClientConfig, KtlsMode, KtlsPolicy, ServerConfig
from tlsify.errors import (
    KtlsCommitError,
    KtlsError,
    KtlsUnavailable,
    TlsifyError,
)
from tlsify.keys import Direction
from tlsify.ktls import ulp
from tlsify.ktls.probe import Capabilities, capabilities
from tlsify.relay import Relay
from tlsify.tls.engine import Engine
from tlsify.tls.session import Session
from tlsify.tls.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from tlsify.tls.negotiated import Negotiated

_log = logging.getLogger("tlsify")


class Offload(Enum):
    """Who protects the records."""

    KERNEL = "kernel"
    RELAY = "relay"


class Reason(NamedTuple):
    """Why a connection is relayed.

    Attributes:
        code: short and stable, such as "no-tls-ulp" (docs/cli.md lists them).
        sentence: the same in words.
        hint: what would change it, or None.
    """

    code: str
    sentence: str
    hint: str | None = None


@dataclass(slots=True, eq=False)
class Handoff:
    """A connection handed to the caller.

    Attributes:
        sock: speaks plaintext. On the kernel path its descriptor is the connection itself, and
            docs/handoff.md says what each call on it may return; on the relay path it is one end
            of a socketpair.
        offload: which of the two it is.
        reason: why it is not the kernel; None if it is.
        negotiated: what the handshake agreed on; its secrets are wiped.
        session: what serves control records; None on the relay path.
        relay: None on the kernel path.
    """

    sock: socket.socket
    offload: Offload
    reason: Reason | None
    negotiated: Negotiated
    session: Session | None
    relay: Relay | None
    _close_notify_sent: bool = field(default=False, init=False, repr=False)

    @property
    def peer_closed(self) -> bool:
        """Whether the peer has ended its direction with close_notify (kernel path)."""
        return self.session is not None and self.session.peer_closed

    def service(self) -> bool:
        """Serve what made a plain read of ``sock`` fail with EIO.

        Returns:
            False once the peer has sent close_notify. On the relay path there is nothing to
            serve; False says that the relay has ended.

        Raises:
            Truncated: the stream ended without close_notify.
            HandshakeError: the connection is over; the peer got its alert.
            OSError: as ``recv``; BlockingIOError if nothing is next.
        """
        if self.session is None:
            self.raise_failure()
            return self.relay is not None and not self.relay.join(0)
        return control.service(self.sock, self.session)

    def raise_failure(self) -> None:
        """Raise what ended a relayed connection, if it did not end in good order.

        Raises:
            Truncated: no close_notify came.
            HandshakeError: a record was wrong, or the peer sent an error alert.
            OSError: the connection broke.
        """
        if self.relay is not None and self.relay.failure is not None:
            raise self.relay.failure

    def send_close_notify(self) -> None:
        """Send close_notify, once; on the relay path the relay does when ``sock`` is shut down."""
        if self.offload is Offload.KERNEL and not self._close_notify_sent:
            self._close_notify_sent = True
            control.send_close_notify(self.sock)

    def shutdown(self) -> None:
        """End the sending direction: close_notify, then FIN. Receiving goes on."""
        self.send_close_notify()  # the kernel itself only sends FIN
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End both directions; on the relay path the last bytes go out in the background."""
        self.shutdown()
        self.sock.close()

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


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
        self.engine = Engine(config, self._aeads(config.aeads))

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
        except KtlsError:
            self._say_goodbye()
            raise
        finally:
            negotiated.wipe()
        self.engine.release()
        session = Session(negotiated.version, is_client=self.engine.is_client)
        return Handoff(self._sock, Offload.KERNEL, None, negotiated, session, None)

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
        """Negotiate first, or only, what this kernel can take."""
        if self._reason is not None:
            return wanted
        found = capabilities()
        offloaded = tuple(aead for aead in wanted if found.offloads_everywhere(aead))
        if self._policy.mode is KtlsMode.REQUIRE:
            return offloaded
        return offloaded + tuple(aead for aead in wanted if aead not in offloaded)

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
        # The kernel's ability is not enough: the session ends on a KeyUpdate.
        if self._policy.rekey_required and is_tls13:
            raise _refusal(
                "no-rekey",
                "an offloaded connection does not follow a TLS 1.3 KeyUpdate yet",
                "drop --ktls-rekey=require, and have a KeyUpdate end the connection",
            )

    def _start_relay(self, negotiated: Negotiated, reason: Reason) -> Handoff:
        _log.debug("relayed: %s: %s", reason.code, reason.sentence)
        relay = Relay(self._sock, Tunnel(self.engine))
        relay.start()
        return Handoff(relay.program_end, Offload.RELAY, reason, negotiated, None, relay)

    def _say_goodbye(self) -> None:
        """Tell the peer of a finished handshake that nothing will follow: TX is still ours."""
        tunnel = Tunnel(self.engine)
        tunnel.close()
        with contextlib.suppress(OSError):
            self._sock.sendall(tunnel.output())


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
