"""Methods of `ssl.SSLSocket` and `ssl.SSLObject` that describe a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

if TYPE_CHECKING:
    from tlsify.sslcontext.facts import TLSInfo

NO_SESSION = "sessions are tlsify's own: set resumption on the server"


class Answers:
    """Mixin: describes a connection once its handshake is finished, and None before.

    ``ktls`` is tlsify's own, and ``group`` that of Python 3.15.
    """

    def _outcome(self) -> TLSInfo | None:
        """Return the outcome of the handshake; None if it is not finished."""
        raise NotImplementedError

    def _finished(self) -> TLSInfo:
        facts = self._outcome()
        if facts is None:
            raise ValueError("handshake not done yet")
        return facts

    def version(self) -> str | None:
        """Return the protocol version, such as ``TLSv1.3``."""
        facts = self._outcome()
        return None if facts is None else facts.version()

    def cipher(self) -> tuple[str, str, int] | None:
        """Return OpenSSL's name of the suite, the protocol version, and the bits of the key."""
        facts = self._outcome()
        return None if facts is None else facts.cipher()

    def group(self) -> str | None:
        """Return the key exchange group, such as ``x25519``; None if it is not known."""
        facts = self._outcome()
        return None if facts is None else facts.group

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol agreed on, or None."""
        facts = self._outcome()
        return None if facts is None else facts.selected_alpn_protocol()

    @overload
    def getpeercert(self, binary_form: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...
    @overload
    def getpeercert(self, binary_form: bool) -> dict[str, Any] | bytes | None: ...
    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """Return the peer's certificate (`TLSInfo.getpeercert`).

        Raises:
            ValueError: the handshake is not finished.
        """
        return self._finished().getpeercert(binary_form)

    def compression(self) -> None:
        """Return None: there is never any."""

    def selected_npn_protocol(self) -> None:
        """Return None: NPN is no more."""

    def shared_ciphers(self) -> None:
        """Return None: the suites that the peer offers are not stored."""

    @property
    def session(self) -> Any:
        """None: tlsify keeps the session for resumption itself."""
        return None

    @session.setter
    def session(self, session: object) -> NoReturn:
        raise NotImplementedError(NO_SESSION)

    @property
    def session_reused(self) -> bool:
        """Whether a session was resumed."""
        facts = self._outcome()
        return facts is not None and facts.session_reused

    @property
    def ktls(self) -> str | None:
        """``kernel`` if the kernel protects the records, or the code of the reason why not."""
        facts = self._outcome()
        return None if facts is None else facts.ktls

    def get_channel_binding(self, cb_type: str = "tls-unique") -> NoReturn:
        """Refuse: TLS 1.3 has no ``tls-unique``, and `ssl` knows no other."""
        raise ValueError(f"{cb_type} channel binding is not implemented")

    def verify_client_post_handshake(self) -> NoReturn:
        """Refuse: once the kernel has the keys there is no more handshake."""
        raise NotImplementedError("post-handshake authentication is not possible with kernel TLS")

    def get_unverified_chain(self) -> list[bytes]:
        """Return the peer's certificates in DER, as it showed them; none before the handshake."""
        facts = self._outcome()
        return [] if facts is None else list(facts.chain())

    def get_verified_chain(self) -> list[bytes]:
        """Return the peer's certificate, and those that lead to a trust anchor, likewise."""
        facts = self._outcome()
        return [] if facts is None else list(facts.verified_chain())
