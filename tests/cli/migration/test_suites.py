"""Tests of suites: what OpenSSL's names are in tlsify, and what has no counterpart."""

from __future__ import annotations

import pytest

from tlsify.cli.migration import suites
from tlsify.cli.migration.draft import Draft, Setting, Weight


def _setting(value: str) -> Setting:
    return Setting("option", value, "conf", 1)


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        (["HIGH:!aNULL:!MD5"], "aes-256-gcm,chacha20-poly1305,aes-128-gcm"),
        (["ECDHE-RSA-AES128-GCM-SHA256"], "aes-128-gcm"),
        (["ECDHE+CHACHA20:ECDHE+AES128"], "chacha20-poly1305,aes-128-gcm"),
        (["TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"], "aes-256-gcm,aes-128-gcm"),
        (["ECDHE+AESGCM", "TLS_AES_128_GCM_SHA256"], "aes-128-gcm"),
        (["ECDHE+AES128", "TLS_AES_256_GCM_SHA384"], None),
        (["ECDHE+AESCCM"], "aes-128-ccm"),
        (["AES128-SHA"], None),
        (["PSK"], None),
        (["DHE-RSA-AES128-GCM-SHA256"], None),
        (["nonsense"], None),
        (["\u20ac"], None),
        (["ECDHE-ECDSA-AES128-CCM8"], None),
    ],
)
def test_ciphers(lists: list[str], found: str | None) -> None:
    """All lists have to allow one; no list that allows none of ours is passed over."""
    draft = Draft("a")
    suites.ciphers(draft, "backend-", *map(_setting, lists))
    assert draft.options.get("backend-ciphers") == found
    weights = {remark.weight for remark in draft.remarks}
    assert weights == {Weight.NOTE if found else Weight.SECURITY}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("X25519:P-256:X448:prime256v1", "x25519,secp256r1,x448,secp256r1"),
        ("x25519mlkem768", "X25519MLKEM768"),
        ("secp521r1, secp384r1", "secp521r1,secp384r1"),
        ("brainpoolP256r1", None),
    ],
)
def test_groups(value: str, found: str | None) -> None:
    """Each is ours, or the whole list is not carried over."""
    draft = Draft("a")
    suites.groups(draft, "", _setting(value))
    assert draft.options.get("groups") == found
    assert [remark.weight for remark in draft.remarks] == ([] if found else [Weight.SECURITY])


@pytest.mark.parametrize(
    ("oldest", "newest", "options", "weights"),
    [
        ("all", "all", {}, {Weight.NOTE}),
        ("TLSv1.2", "all", {}, set()),
        ("TLSv1.3", "TLSv1.3", {"tls-min": "1.3"}, set()),
        ("TLSv1", "TLSv1.2", {"tls-max": "1.2"}, {Weight.NOTE}),
        ("SSLv3", "TLSv1.1", {}, {Weight.SECURITY}),
    ],
)
def test_versions(oldest: str, newest: str, options: dict[str, str], weights: set[Weight]) -> None:
    """Older ones are never spoken, which is worth a note; newer limits are kept."""
    draft = Draft("a")
    suites.versions(draft, "", suites.between(oldest, newest), _setting(oldest))
    assert draft.options == options
    assert {remark.weight for remark in draft.remarks} == weights
