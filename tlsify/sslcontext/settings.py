"""Settings of a context: honoured or refused, never ignored."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cryptography import x509

from tlsify.codepoints import DEFAULT_AEADS, Aead, CipherSuite, ProtocolVersion
from tlsify.config import check_alpn, check_groups
from tlsify.connection.setup import keylog
from tlsify.credentials.anchors import Anchor, Lookup, TrustAnchors, read_anchors
from tlsify.credentials.der import whole
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.parse import decrypt_key, has_crls, parse_crls
from tlsify.credentials.reading import CERTIFICATE, PRIVATE_KEY, REVOCATION_LIST, read_file
from tlsify.errors import ConfigError
from tlsify.sslcontext.errors import setting
from tlsify.sslcontext.facts import describe
from tlsify.trust import store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from _typeshed import ReadableBuffer, StrOrBytesPath

    Secret: TypeAlias = str | bytes | bytearray
    Password: TypeAlias = Secret | Callable[[], Secret]

_EXCLUDED = {
    ProtocolVersion.TLSv1_2: ssl.OP_NO_TLSv1_2,
    ProtocolVersion.TLSv1_3: ssl.OP_NO_TLSv1_3,
}
# As Python's ssl has it, in one file.
_ANCHORS_AND_LISTS = REVOCATION_LIST._replace(name="trust anchors")
_CURVES = {"prime256v1": "P-256"}


@dataclass(frozen=True)
class Wishes:
    """Settings that the base class cannot store, or does not return."""

    pairs: tuple[KeyPair, ...] = ()
    more_pairs: tuple[KeyPair, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    system: bool = False
    alpn: tuple[bytes, ...] = ()
    aeads: tuple[Aead, ...] = DEFAULT_AEADS
    groups: tuple[str, ...] = ()
    key_log: Path | None = None


_NO_STORE = Lookup((), (), chosen=False)


class Settings(ssl.SSLContext):
    """The settings of `ssl.SSLContext`.

    Those that Python's own context gives back (``verify_mode``, ``options``, versions, ...) it
    keeps; the others are in `wishes`.
    """

    def __init__(self, protocol: int = ssl.PROTOCOL_TLS) -> None:
        """Begin with what Python's context begins with.

        Args:
            protocol: PROTOCOL_TLS_SERVER, PROTOCOL_TLS_CLIENT, or PROTOCOL_TLS for both.

        Raises:
            ConfigError: another one, which fixes a version: set ``minimum_version``.
        """
        if protocol not in {ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER}:
            raise ConfigError(
                f"protocol {protocol!r} is not one that tlsify speaks",
                hint="use PROTOCOL_TLS_SERVER or PROTOCOL_TLS_CLIENT, and set minimum_version",
            )
        self.wishes = Wishes()

    @setting()
    def load_cert_chain(
        self,
        certfile: StrOrBytesPath,
        keyfile: StrOrBytesPath | None = None,
        password: Password | None = None,
    ) -> None:
        """Load a chain and its key, instead of one loaded before with the same kind of key.

        Raises:
            ConfigError: one of them is unusable.
        """
        pair = _load_pair(certfile, keyfile, password)
        others = (other for other in self.wishes.pairs if type(other.key) is not type(pair.key))
        self.wishes = replace(self.wishes, pairs=(*others, pair))

    @setting()
    def add_cert_chain(
        self,
        certfile: StrOrBytesPath,
        keyfile: StrOrBytesPath | None = None,
        password: Password | None = None,
    ) -> None:
        """Load one more chain, which is for clients that ask for a name in it (SNI)."""
        pair = _load_pair(certfile, keyfile, password)
        self.wishes = replace(self.wishes, more_pairs=(*self.wishes.more_pairs, pair))

    @setting()
    def load_verify_locations(
        self,
        cafile: StrOrBytesPath | None = None,
        capath: StrOrBytesPath | None = None,
        cadata: str | ReadableBuffer | None = None,
    ) -> None:
        """Trust certificates in a file, in a folder's PEM files, in PEM or DER; and take CRLs.

        Raises:
            ConfigError: unreadable, or nothing usable in it.
        """
        if cafile is None and capath is None and cadata is None:
            raise TypeError("cafile, capath and cadata cannot be all omitted")
        found: list[Anchor] = []
        crls: list[x509.CertificateRevocationList] = []
        if cafile is not None:
            pem = read_file(_path(cafile), _ANCHORS_AND_LISTS)
            if has_crls(pem):
                crls += parse_crls(pem, str(_path(cafile)))
            if b"CERTIFICATE-----" in pem or not crls:
                found += read_anchors(pem, str(_path(cafile)))
        if capath is not None:
            loaded = TrustAnchors.load(_path(capath)).lookup
            found += loaded.anchors if loaded is not None else ()
        if cadata is not None:
            found += _read_data(cadata)
        wishes = self.wishes
        self.wishes = replace(wishes, anchors=(*wishes.anchors, *found), crls=(*wishes.crls, *crls))

    def load_default_certs(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        """Trust the system's store."""
        self.wishes = replace(self.wishes, system=True)

    def set_default_verify_paths(self) -> None:
        """Trust the system's store."""
        self.load_default_certs()

    @setting()
    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Offer, or choose from, some protocols, most wanted first."""
        encoded = tuple(name.encode("ascii") for name in alpn_protocols)
        check_alpn(encoded)
        self.wishes = replace(self.wishes, alpn=encoded)

    @setting()
    def set_ciphers(self, cipherlist: str, /) -> None:
        """Choose among tlsify's suites by OpenSSL's cipher list; for TLS 1.3, by its AEADs, too.

        Raises:
            ssl.SSLError: OpenSSL does not understand it.
            ConfigError: none of the suites is left.
        """
        super().set_ciphers(cipherlist)
        aeads = {suite.openssl_name: suite.aead for suite in _suites(ProtocolVersion.TLSv1_2)}
        chosen = dict.fromkeys(
            aeads[cipher["name"]] for cipher in super().get_ciphers() if cipher["name"] in aeads
        )
        if not chosen:
            raise ConfigError(
                f'no suite of tlsify is among the ciphers "{cipherlist}"',
                hint="allow ECDHE with AES-GCM or CHACHA20-POLY1305",
            )
        self.wishes = replace(self.wishes, aeads=tuple(chosen))

    def get_ciphers(self) -> Any:
        """List the suites that may be negotiated, as Python's context does."""
        names = {
            suite.openssl_name
            for version in self.versions()
            for suite in _suites(version)
            if suite.aead in self.wishes.aeads
        }
        return [cipher for cipher in super().get_ciphers() if cipher["name"] in names]

    @setting(ValueError)
    def set_ecdh_curve(self, name: str, /) -> None:
        """Allow one key exchange group only."""
        check_groups([_CURVES.get(name, name)])
        self.wishes = replace(self.wishes, groups=(_CURVES.get(name, name),))

    @property
    def keylog_filename(self) -> Any:
        """The file to append every connection's secrets to, or None."""
        return None if self.wishes.key_log is None else str(self.wishes.key_log)

    @keylog_filename.setter
    @setting()
    def keylog_filename(self, name: StrOrBytesPath | None) -> None:
        path = None if name is None else _path(name)
        if path is not None:
            keylog.append(path, b"")  # whether it can be written must show now
        self.wishes = replace(self.wishes, key_log=path)

    def get_ca_certs(self, binary_form: bool = False) -> Any:
        """List the anchors loaded by name; the system's are not among them."""
        encoded = [anchor.der for anchor in self.wishes.anchors]
        return encoded if binary_form else list(map(describe, encoded))

    def cert_store_stats(self) -> dict[str, int]:
        """Count the anchors and revocation lists loaded by name."""
        anchors = len(self.wishes.anchors)
        return {"x509": anchors, "crl": len(self.wishes.crls), "x509_ca": anchors}

    def versions(self) -> frozenset[ProtocolVersion]:
        """Return the protocol versions that are left."""
        lowest, highest = self.minimum_version, self.maximum_version
        return frozenset(
            version
            for version in ProtocolVersion
            if (lowest < 0 or version >= lowest)
            and (highest == ssl.TLSVersion.MAXIMUM_SUPPORTED or version <= highest)
            and not self.options & _EXCLUDED[version]
        )

    def trust(self) -> TrustAnchors:
        """Return the loaded trust anchors.

        Raises:
            ConfigError: nothing was.
        """
        wishes = self.wishes
        if not (wishes.system or wishes.anchors):
            raise ConfigError(
                "verification requires trust anchors, and none were loaded",
                hint="call load_verify_locations or load_default_certs",
            )
        is_partial = bool(self.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN)
        found = store.system().lookup if wishes.system else None
        found = replace(found or _NO_STORE, chosen=is_partial, anchors=wishes.anchors)
        return TrustAnchors(lookup=found)

    # -- what cannot be meant

    def load_dh_params(self, *_: object) -> NoReturn:
        """Refuse: tlsify's key exchange is ECDHE or ML-KEM."""
        raise ConfigError("finite-field DH is never negotiated", hint="leave the parameters out")

    @property
    def sni_callback(self) -> None:
        """None; `add_cert_chain` is for servers with several names."""

    @sni_callback.setter
    def sni_callback(self, callback: object) -> None:
        if callback is not None:
            raise ConfigError(
                "sni_callback is not possible with tlsify",
                hint="load each name's certificate with add_cert_chain",
            )

    @property
    def post_handshake_auth(self) -> bool:
        """False: once the kernel has the keys there is no more handshake."""
        return False

    @post_handshake_auth.setter
    def post_handshake_auth(self, value: bool) -> None:
        if value:
            raise ConfigError(
                "post-handshake authentication is not possible with kernel TLS",
                hint="set verify_mode, which asks for the certificate in the handshake",
            )

    def _refuse_psk(self, *_: object) -> NoReturn:
        raise NotImplementedError("external PSKs are not possible with tlsify")

    set_psk_client_callback = set_psk_server_callback = _refuse_psk


def _suites(version: ProtocolVersion) -> list[CipherSuite]:
    return [suite for suite in CipherSuite if suite.version is version]


def _path(name: StrOrBytesPath) -> Path:
    return Path(os.fsdecode(name))


def _load_pair(
    certfile: StrOrBytesPath, keyfile: StrOrBytesPath | None, password: Password | None
) -> KeyPair:
    chain_path, key_path = _path(certfile), _path(keyfile or certfile)
    chain = read_file(chain_path, CERTIFICATE)
    key = chain if keyfile is None else read_file(key_path, PRIVATE_KEY)
    if password is not None:
        secret = password() if callable(password) else password
        secret = secret.encode() if isinstance(secret, str) else bytes(secret)
        key = decrypt_key(key, secret, str(key_path))
    return KeyPair.from_pem(chain, key, chain_path, key_path)


def _read_data(data: str | ReadableBuffer) -> Iterable[Anchor]:
    if isinstance(data, str):
        return read_anchors(data.encode("ascii", "replace"), "cadata")
    try:
        found = tuple(whole(bytes(data)))
        for each in found:
            x509.load_der_x509_certificate(each)
    except (ValueError, x509.InvalidVersion) as exc:
        raise _no_certificate() from exc
    if not found:
        raise _no_certificate()
    return tuple(Anchor(each, "cadata") for each in found)


def _no_certificate() -> ConfigError:
    return ConfigError(
        "cadata holds no usable certificate", hint="bytes are DER certificates, one after another"
    )
