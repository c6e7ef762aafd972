"""TrustAnchors: chosen certificates, files of them, or the system's store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from tlsify.credentials.pem import no_anchors, read_pem
from tlsify.credentials.reading import TRUST_ANCHORS, files_in, read_file, read_files
from tlsify.credentials.system_store import state_of, state_of_default

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from _typeshed import StrPath
    from cryptography import x509

# Names of the files in a folder of trust anchors.
ANCHOR_SUFFIXES = (".pem", ".crt")


class Anchor(NamedTuple):
    """A trust anchor as it was read, in DER, and from where, for messages."""

    der: bytes
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """Trust anchors that only OpenSSL has to understand (`trust`).

    Attributes:
        files: the system's PEM files, read as a whole before the first handshake.
        folders: in OpenSSL's own layout, searched by subject whenever a path is built.
        chosen: whether the caller has chosen every one: each then is an anchor, be it self-signed
            or not, which is not said of the system's, nor wanted by each `SSLContext`.
        content: any bytes that other anchors have different ones of; none stand for the state of
            the files and folders.
        lease: object that must live as long as the folders are needed.
        anchors: certificates in memory.
    """

    files: tuple[Path | str, ...]
    folders: tuple[Path | str, ...]
    chosen: bool
    content: bytes = field(default=b"", repr=False)
    lease: object = field(default=None, repr=False)
    anchors: tuple[Anchor, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class TrustAnchors:
    """Trust anchors: chosen certificates, or the system's store.

    Attributes:
        certificates: the anchors; None means those of `lookup`.
        lookup: anchors from files; None means OpenSSL's default store of the system.
    """

    certificates: tuple[x509.Certificate, ...] | None = None
    lookup: Lookup | None = None
    _content: bytes = field(default=b"", init=False, repr=False)

    def content(self, file: str, folder: str) -> bytes:
        """Return bytes that other anchors than those of `lookup` have different ones of.

        Of the system's store it is the state when they were first asked for, and so before OpenSSL
        reads anything: a handshake may accept what the store no longer holds.

        Args:
            file: where OpenSSL looks by default.
            folder: likewise.
        """
        if not self._content:
            found = self.lookup
            if found is None:
                content = state_of_default(file, folder)
            else:
                content = found.content or state_of(found.files, found.folders)
                content = b"".join(
                    [bytes([found.chosen]), content, *(a.der for a in found.anchors)]
                )
            object.__setattr__(self, "_content", content)
        return self._content

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read a PEM file, or every ``*.pem`` and ``*.crt`` file of a folder, into memory.

        A program that starts often reads less with `trust.store.load`.

        Raises:
            ConfigError: unreadable, or nothing usable in it.
        """
        files = files_in(path, ANCHOR_SUFFIXES, TRUST_ANCHORS.name)
        if files is None:
            return cls.of(read_anchors(read_file(path, TRUST_ANCHORS), str(path)))
        anchors = [
            anchor
            for file, pem in read_files(path, files, TRUST_ANCHORS)
            for anchor in read_anchors(pem, str(file))
        ]
        if not anchors:
            raise no_anchors(path)
        return cls.of(anchors)

    @classmethod
    def of(cls, anchors: Iterable[Anchor]) -> Self:
        """Return trust in exactly these certificates."""
        return cls(lookup=Lookup((), (), chosen=True, anchors=tuple(anchors)))


def read_anchors(pem: bytes, what: str) -> Iterator[Anchor]:
    """Find the trust anchors of a PEM file (`read_pem`).

    Raises:
        ConfigError: there is none, or half of one.
    """
    return (Anchor(der, what) for der in read_pem(pem, what))
