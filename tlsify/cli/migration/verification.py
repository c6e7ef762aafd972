"""Verification of peers as stunnel has it: chains, peers that are known, names."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from tlsify.cli.migration.sections import is_on
from tlsify.credentials.pem import read_pem
from tlsify.credentials.reading import TRUST_ANCHORS, read_file
from tlsify.errors import TlsifyError
from tlsify.names import ReferenceIdentifier
from tlsify.tls import certificates
from tlsify.tls.identity import presents

if TYPE_CHECKING:
    from tlsify.cli.migration.draft import Draft, Setting
    from tlsify.cli.migration.sections import Service


_NAMES = {"checkHost": "dns", "checkIP": "ip"}
_OCSP = ("OCSP", "OCSPaia", "OCSPflag", "OCSPnonce", "OCSPrequire")
_SHOWN = "see client-cert; a server always shows a certificate"


class _Wanted:
    """What is to be verified."""

    def __init__(self, settings: Service) -> None:
        self.chain, self.peer = settings.last("verifyChain"), settings.last("verifyPeer")
        self.is_chain, self.is_peer = is_on(self.chain), is_on(self.peer)
        self.level = settings.last("verify")
        self.certificate = settings.last("requireCert")
        self.folder = _below(settings.root, settings.file("CApath"))
        file = settings.file("CAfile")
        self.authorities = file or self.folder
        self.more = self.folder if file is not None else None
        self.crl = settings.file("CRLfile")
        self.crls = settings.file("CRLpath")
        self.names = {kind: settings.all(name) for name, kind in _NAMES.items()}
        self.emails = settings.all("checkEmail")
        self.others = [each for name in _OCSP for each in settings.all(name)]

    def is_by_chain(self) -> bool:
        """Return whether there has to be a path to an authority."""
        return self.is_chain or (self.level is not None and self.level.value in {"1", "2", "3"})

    def is_by_peer(self) -> bool:
        """Return whether the peer's own certificate has to be known."""
        return self.is_peer or (self.level is not None and self.level.value in {"3", "4"})

    def is_certificate_optional(self) -> bool:
        """Return whether a client without a certificate is let through: the last line decides."""
        if self.level is not None and self.level.value == "1":
            return True
        if self.certificate is None or is_on(self.certificate):
            return False
        others = (each for each in (self.chain, self.peer, self.level) if each is not None)
        return all(
            each.source == self.certificate.source and each.number < self.certificate.number
            for each in others
        )

    def first(self) -> Setting | None:
        """Return a setting that wants verification; None if none does."""
        wanted = self.is_by_chain() or self.is_by_peer()
        return next((each for each in (self.peer, self.chain, self.level) if each and wanted), None)


def of_clients(draft: Draft, settings: Service) -> None:
    """Translate what a server verifies of its clients."""
    wanted = _Wanted(settings)
    _remark(draft, wanted)
    said = wanted.first()
    if said is None:
        _remark_on_idle(draft, wanted)
        if wanted.certificate is not None and is_on(wanted.certificate):
            why = "tlsify requires no certificate that it does not verify: see client-cert"
            draft.endanger(wanted.certificate, why)
        return
    if wanted.is_by_peer():
        draft.endanger(said, "tlsify accepts clients by authority and name, not by certificate")
    draft.options["client-cert"] = "request" if wanted.is_certificate_optional() else "require"
    if wanted.authorities is None:
        draft.endanger(said, "there are no authorities (CAfile)")
    else:
        draft.options["client-ca"] = wanted.authorities.value
    if wanted.crl is not None:
        draft.options["crl"] = wanted.crl.value
    for kind, names in wanted.names.items():
        for name in names:
            draft.identify("client-ref-id", kind, name)


def of_server(draft: Draft, settings: Service, client: Setting) -> None:
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
        if wanted.certificate is not None and is_on(wanted.certificate):
            draft.note(wanted.certificate, _SHOWN)
        draft.note(
            client,
            "stunnel verifies no server here, tlsify does, by the system's authorities; name "
            "others with backend-ca, or write backend-no-verify = true",
        )
        return
    if wanted.is_by_peer():
        _pin(draft, wanted, said)
    if not wanted.is_by_chain():
        if "backend-pin" in draft.options:
            draft.options["backend-no-verify"] = True  # and so neither names nor lists
        if wanted.crl is not None:
            draft.endanger(wanted.crl, "tlsify reads no list if the path is not verified")
        return
    _verify_path(draft, wanted, said)


def _verify_path(draft: Draft, wanted: _Wanted, said: Setting) -> None:
    """Translate the verification of a server's path, and of its names."""
    if wanted.authorities is not None:
        draft.options["backend-ca"] = wanted.authorities.value
    else:
        draft.note(said, "there is no CAfile: tlsify trusts the system's authorities")
    if not any(wanted.names.values()):
        draft.note(said, "tlsify verifies the name, too: that of connect, or backend-servername")
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
    if wanted.crls is not None:
        draft.endanger(wanted.crls, "tlsify reads lists from one file: see crl")
    if wanted.more is not None:
        draft.lose(wanted.more, "tlsify has one place for authorities: put them into CAfile")
    elif wanted.folder is not None:
        draft.note(wanted.folder, "of a folder tlsify reads *.pem and *.crt, whatever their hashes")
    if wanted.certificate is not None and not (
        wanted.first() is None and is_on(wanted.certificate)
    ):
        draft.note(wanted.certificate, _SHOWN)


def _remark_on_idle(draft: Draft, wanted: _Wanted) -> None:
    """Remark on names and authorities that verify nothing, since nothing is verified."""
    names = [each for found in wanted.names.values() for each in found]
    for setting in (wanted.authorities, wanted.crl, *names):
        if setting is not None:
            draft.note(setting, "without verifyChain or verifyPeer stunnel does not use it")


def _pin(draft: Draft, wanted: _Wanted, said: Setting) -> None:
    """Pin the public keys of the certificates in a file, of those that have an accepted name."""
    file = wanted.authorities
    if file is None:
        draft.endanger(said, "there are no certificates (CAfile)")
        return
    try:
        names = _identifiers(wanted)
        found = [
            certificates.key_hash(certificates.load(der))
            for der in read_pem(read_file(file.value, TRUST_ANCHORS), "it")
            if not names or presents(der, names)
        ]
    except (TlsifyError, ValueError) as exc:
        draft.endanger(file, f"its certificates cannot be pinned: {exc}")
        return
    if not all(found) or not found:
        draft.endanger(file, "its certificates cannot be pinned: none that can has such a name")
        return
    for digest in found:
        draft.add("backend-pin", f"sha256//{base64.b64encode(digest).decode()}")
    draft.note(file, "the public keys of its certificates are pinned")


def _identifiers(wanted: _Wanted) -> tuple[ReferenceIdentifier, ...]:
    """Return the names of which a peer has to have one.

    Raises:
        ConfigError: tlsify has no such names.
    """
    return tuple(
        ReferenceIdentifier.parse(f"{kind}:{name.value}").canonical()
        for kind, names in wanted.names.items()
        for name in names
    )


def _below(root: str, folder: Setting | None) -> Setting | None:
    """Return a folder as it is called outside of chroot."""
    if folder is None or not root:
        return folder
    return folder._replace(value=f"{root.rstrip('/')}/{folder.value.lstrip('/')}")
