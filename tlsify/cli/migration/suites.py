"""Versions, ciphers and groups by OpenSSL's names, as far as tlsify has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.tls.cipher_list import allowed as allowed_by

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlsify.cli.migration.draft import Draft, Setting

_VERSIONS = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
# tlsify's names of the versions that it has.
OURS = {"TLSv1.2": "1.2", "TLSv1.3": "1.3"}
# With certificates, and not with keys that are known beforehand.
_AUTHENTICATED = ("ECDHE-ECDSA-", "ECDHE-RSA-")
# In tlsify's own order, by what stands in the names of TLS 1.2's suites, and of TLS 1.3's.
_CIPHERS = {
    "aes-128-gcm": ("AES128-GCM", "AES_128_GCM"),
    "aes-256-gcm": ("AES256-GCM", "AES_256_GCM"),
    "chacha20-poly1305": ("CHACHA20-POLY1305", "CHACHA20_POLY1305"),
    "aes-128-ccm": ("AES128-CCM", "AES_128_CCM"),
}
_DEFAULT = list(_CIPHERS)[:3]
_GROUPS = {
    "prime256v1": "secp256r1",
    "p-256": "secp256r1",
    "p-384": "secp384r1",
    "p-521": "secp521r1",
    **{name.lower(): name for name in ("secp256r1", "secp384r1", "secp521r1", "x25519", "x448")},
    **{
        name.lower(): name for name in ("X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024")
    },
}


def ciphers(draft: Draft, of: str, *settings: Setting) -> None:
    """Translate lists of ciphers: each is about one version, and tlsify has one for both.

    Args:
        draft: gets what all of them allow.
        of: stands in front of the option's name, such as ``backend-``.
        settings: an OpenSSL cipher list, or names of TLS 1.3's suites.
    """
    allowed = list(_CIPHERS)
    for setting in settings:
        named = _named(setting.value)
        if named is None:
            draft.endanger(setting, "it is no list of OpenSSL's")
            return
        found = [name for name in named if name in allowed]
        if not found:
            draft.endanger(setting, "tlsify has none of them, which are not AEADs with ECDHE")
            return
        allowed = found
    if allowed != _DEFAULT:
        draft.options[f"{of}ciphers"] = ",".join(allowed)
    for setting in settings:
        draft.note(setting, f"as far as tlsify has them, in both versions: {', '.join(allowed)}")


def _named(text: str) -> list[str] | None:
    """Return which of ours a list allows, in its order; None if it is none."""
    if text.startswith("TLS_"):
        names = text.split(":")
    else:
        try:
            names = [name for name in allowed_by(text) if name.startswith(_AUTHENTICATED)]
        except ValueError:
            return None

    def is_wanted(name: str) -> bool:
        # Rarely used, and in many a list only because it is strong.
        return "CCM" in text and not name.endswith(("CCM8", "CCM_8_SHA256"))

    found = [
        ours
        for name in names
        for ours, spellings in _CIPHERS.items()
        if any(each in name for each in spellings) and ("CCM" not in name or is_wanted(name))
    ]
    return list(dict.fromkeys(found))


def groups(draft: Draft, of: str, setting: Setting) -> None:
    """Translate a list of groups, or curves."""
    names = [name.strip().lower() for name in setting.value.replace(",", ":").split(":")]
    if unknown := [name for name in names if name not in _GROUPS]:
        draft.endanger(setting, f"tlsify has no group {', '.join(unknown)}")
        return
    draft.options[f"{of}groups"] = ",".join(_GROUPS[name] for name in names)


def versions(draft: Draft, of: str, allowed: Iterable[str], setting: Setting) -> None:
    """Translate a set of versions.

    Args:
        draft: gets those that tlsify has.
        of: stands in front of the options' names.
        allowed: by OpenSSL's names.
        setting: says so.
    """
    names = set(allowed)
    ours = [number for name, number in OURS.items() if name in names]
    if not ours:
        draft.endanger(setting, "tlsify has TLS 1.2 and 1.3 only")
        return
    if ours[0] != "1.2":
        draft.options[f"{of}tls-min"] = ours[0]
    if ours[-1] != "1.3":
        draft.options[f"{of}tls-max"] = ours[-1]
    if names - set(OURS):
        draft.note(setting, "tlsify never speaks a version older than TLS 1.2")


def between(oldest: str, newest: str) -> list[str]:
    """Return OpenSSL's names of the versions from one to another.

    Args:
        oldest: in any case; "all" for the oldest that there is.
        newest: the same of the newest.

    Raises:
        ValueError: one of them is unknown.
    """
    names = [name.lower() for name in _VERSIONS]
    first = 0 if oldest.lower() == "all" else names.index(oldest.lower())
    last = len(names) - 1 if newest.lower() == "all" else names.index(newest.lower())
    return list(_VERSIONS[first : last + 1])
