"""Settings of ACME: the authority, the certificates that are wanted, and where they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tlsify.credentials.anchors import TrustAnchors

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
TLS_ALPN_01, HTTP_01 = CHALLENGES = ("tls-alpn-01", "http-01")


class Authority(NamedTuple):
    """An authority, and our account with it.

    Attributes:
        directory: URL of its directory.
        email: where to tell us of trouble, or None.
        challenge: one of `CHALLENGES`.
        trust: where its server's path must end.
        binding: name and key of an account that we have with it otherwise, or None.
    """

    directory: str
    trust: TrustAnchors
    email: str | None = None
    challenge: str = TLS_ALPN_01
    binding: tuple[str, str] | None = None


class Wanted(NamedTuple):
    """A certificate that is wanted.

    Attributes:
        names: that it is for; its files are called after the first.
    """

    names: tuple[str, ...]

    @property
    def file(self) -> str:
        """Name of the file with chain and key."""
        return f"{self.names[0]}.pem"

    @property
    def attempts(self) -> str:
        """Name of the file about attempts that have failed."""
        return f".{self.names[0]}.attempts.json"

    @property
    def schedule(self) -> str:
        """Name of the file about the next renewal."""
        return f".{self.names[0]}.renewal.json"
