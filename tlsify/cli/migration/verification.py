"""Verification of peers as stunnel has it: chains, peers that are known, names."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tlsify.credentials.reading import TRUST_ANCHORS, read_file
from tlsify.errors import TlsifyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlsify.cli.migration.draft import Draft, Setting


class Settings(Protocol):
    """A service's settings, each of which can be taken once."""

    def all(self, name: str) -> list[Setting]:
        """Take all settings of a name."""

    def last(self, name: str) -> Setting | None:
        """Take the setting that counts."""

    def is_on(self, name: str) -> bool:
        """Take a switch."""


_YES = "yes"
_NAMES = {"checkHost": "dns", "checkIP": "ip"}
_OCSP = ("OCSP", "OCSPaia", "OCSPflag", "OCSPnonce", "OCSPrequire", "CRLpath")


class _Wanted:
    """What is to be verified."""

    def __init__(self, settings: Settings) -> None:
        self.chain, self.peer = settings.last("verifyChain"), settings.last("verifyPeer")
        self.level = settings.last("verify")
        self.authorities = settings.last("CAfile") or settings.last("CApath")
        settings.all("CApath")
        self.crl = settings.last("CRLfile")
        self.names = {kind: settings.all(name) for name, kind in _NAMES.items()}
        self.emails = settings.all("checkEmail")
        self.others = [each for name in _OCSP for each in settings.all(name)]

    def is_by_chain(self) -> bool:
        """Return whether there has to be a path to an authority."""
        return _is_yes(self.chain) or (
            self.level is not None and self.level.value in {"1", "2", "3"}
        )

    def is_by_peer(self) -> bool:
        """Return whether the peer's own certificate has to be known."""
        return _is_yes(self.peer) or (self.level is not None and self.level.value in {"3", "4"})

    def first(self) -> Setting | None:
        """Return a setting that wants verification; None if none does."""
        wanted = self.is_by_chain() or self.is_by_peer()
        return next((each for each in (self.peer, self.chain, self.level) if each and wanted), None)


def of_clients(draft: Draft, settings: Settings) -> None:
    """Translate what a server verifies of its clients."""
    wanted = _Wanted(settings)
    _remark(draft, wanted)
    said = wanted.first()
    if said is None:
        _remark_on_idle(draft, wanted)
        return
    if wanted.is_by_peer():
        draft.endanger(said, "tlsify accepts clients by authority and name, not by certificate")
    is_optional = wanted.level is not None and wanted.level.value == "1"
    draft.options["client-cert"] = "request" if is_optional else "require"
    if wanted.authorities is None:
        draft.endanger(said, "there are no authorities (CAfile)")
    else:
        draft.options["client-ca"] = wanted.authorities.value
    if wanted.crl is not None:
        draft.options["crl"] = wanted.crl.value
    for kind, names in wanted.names.items():
        for name in names:
            draft.identify("client-ref-id", kind, name)


def of_server(draft: Draft, settings: Settings, client: Setting) -> None:
    """Translate what a client verifies of its server, which tlsify does in any case.

    Args:
        draft: gets it.
        settings: of the service.
        client: the one that makes it a client.
    """
    wanted = _Wanted(settings)
    _remark(draft, wanted)
    said = wanted.first()
    if said is None:
        _remark_on_idle(draft, wanted)
        draft.note(
            client,
            "stunnel verifies no server here, tlsify does, by the system's authorities; name "
            "others with backend-ca, or write backend-no-verify = true",
        )
        return
    if wanted.is_by_peer():
        _pin(draft, wanted.authorities, said)
        if not wanted.is_by_chain():
            draft.options["backend-no-verify"] = True
    if wanted.is_by_chain():
        if wanted.authorities is not None:
            draft.options["backend-ca"] = wanted.authorities.value
        if not any(wanted.names.values()):
            draft.note(
                said, "tlsify verifies the name, too: that of connect, or backend-servername"
            )
    if wanted.crl is not None:
        draft.options["backend-crl"] = wanted.crl.value
    for kind, names in wanted.names.items():
        for name in names:
            draft.identify("backend-ref-id", kind, name)


def _remark(draft: Draft, wanted: _Wanted) -> None:
    if wanted.level is not None and wanted.level.value not in set("01234"):
        draft.endanger(wanted.level, "stunnel has levels from 0 to 4")
    for setting in wanted.emails:
        draft.endanger(setting, "tlsify knows peers by DNS name, IP address, service or URI")
    for setting in wanted.others:
        if setting.value.lower() != "no":
            draft.endanger(setting, "tlsify asks no responder about its peers: see crl")


def _remark_on_idle(draft: Draft, wanted: _Wanted) -> None:
    """Remark on names and authorities that verify nothing, since nothing is verified."""
    names = [each for found in wanted.names.values() for each in found]
    for setting in (wanted.authorities, wanted.crl, *names):
        if setting is not None:
            draft.note(setting, "without verifyChain or verifyPeer stunnel does not use it")


def _pin(draft: Draft, file: Setting | None, said: Setting) -> None:
    """Pin the public keys of the certificates in a file."""
    if file is None:
        draft.endanger(said, "there are no certificates (CAfile)")
        return
    try:
        found = x509.load_pem_x509_certificates(read_file(file.value, TRUST_ANCHORS))
    except (TlsifyError, ValueError) as exc:
        draft.endanger(file, f"its certificates cannot be pinned: {exc}")
        return
    for pin in _pins(found):
        draft.add("backend-pin", pin)
    draft.note(file, "the public keys of its certificates are pinned")


def _pins(certificates: Sequence[x509.Certificate]) -> list[str]:
    keys = (
        each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in certificates
    )
    return [f"sha256//{base64.b64encode(hashlib.sha256(key).digest()).decode()}" for key in keys]


def _is_yes(setting: Setting | None) -> bool:
    return setting is not None and setting.value.lower() == _YES
