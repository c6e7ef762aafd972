"""Tests of key_files."""

from __future__ import annotations

import json
import os
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding

from tests.certificates import DAY, certify, key_pem, respond, save
from tests.credentials.test_traefik import stored
from tlsify.credentials.key_files import Files, amiss, find, fingerprint, with_ocsp
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.credentials.key_pair import KeyPair

AUTHORITY = trustme.CA()
PAIR = certify(AUTHORITY, "example.org")
OTHER = certify(AUTHORITY, "example.org", kind="rsa")
THIRD = certify(AUTHORITY, "*.example.net")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One of each layout, and what is none."""
    save(PAIR, tmp_path / "one.pem", tmp_path / "one.pem")
    save(PAIR, tmp_path / "two.pem", tmp_path / "two.key")
    save(PAIR, tmp_path / "three.crt", tmp_path / "three.key")
    save(PAIR, tmp_path / "four/fullchain.pem", tmp_path / "four/privkey.pem")
    (tmp_path / "three.ocsp").write_bytes(respond(AUTHORITY, PAIR))
    (tmp_path / "four.ocsp").write_bytes(respond(AUTHORITY, PAIR))
    (tmp_path / "README").write_text("hello")
    (tmp_path / ".five.pem").write_text("half of a")
    (tmp_path / "six").mkdir()
    return tmp_path


# -- a folder


def test_layouts(folder: Path) -> None:
    """Every layout is found, by name, with its response, and nothing else is."""
    found = find(folder).files
    assert [files.name for files in found] == ["four", "one", "three", "two"]
    assert [files.key.name for files in found] == ["privkey.pem", "one.pem", "three.key", "two.key"]
    assert [files.ocsp is not None for files in found] == [True, False, True, False]
    for files in found:
        pair = files.load()
        assert pair.chain == PAIR.chain
        assert (pair.staple() is not None) is (files.ocsp is not None)


def test_certbots_links(tmp_path: Path) -> None:
    """What certbot has in its live folder are links."""
    save(PAIR, tmp_path / "archive/cert1.pem", tmp_path / "archive/key1.pem")
    live = tmp_path / "live/example.org"
    live.mkdir(parents=True)
    (live / "fullchain.pem").symlink_to("../../archive/cert1.pem")
    (live / "privkey.pem").symlink_to("../../archive/key1.pem")
    (files,) = find(tmp_path / "live").files
    assert files.name == "example.org"
    assert files.load().chain == PAIR.chain


def test_default(folder: Path) -> None:
    """One called so comes first."""
    save(PAIR, folder / "default.crt", folder / "default.key")
    names = [files.name for files in find(folder).files]
    assert names == ["default", "four", "one", "three", "two"]


def test_nothing_there(tmp_path: Path) -> None:
    """An empty folder, or none, is a mistake."""
    with pytest.raises(ConfigError, match="no certificate in"):
        find(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read certificates .*absent"):
        find(tmp_path / "absent")


def test_same_name_twice(folder: Path) -> None:
    """Two files that a response could belong to are one too many."""
    for name in ("one.pem", "one.crt"):
        save(certify(AUTHORITY, name), folder / name, folder / name)
    with pytest.raises(ConfigError, match="more than one certificate called one"):
        find(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("two.key", b"garbage", r"two\.key holds no usable PEM private key"),
        ("two.key", AUTHORITY.cert_pem.bytes(), r"two\.key holds no private key"),
        ("two.pem", b"garbage", "no usable PEM certificate"),
        ("three.ocsp", b"garbage", "no OCSP response"),
        ("seven.pem", THIRD.certificate_pem(), r"cannot read private key .*seven\.key"),
        ("two.pem", OTHER.certificate_pem(), r"two\.key does not belong .*two\.pem"),
    ],
)
def test_one_bad_file(folder: Path, name: str, content: bytes, said: str) -> None:
    """Among many, the one that is unusable is named."""
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        [files.load() for files in find(folder).files]
    assert name.partition(".")[0] in str(caught.value)
    assert caught.value.hint


def test_key_gone(folder: Path) -> None:
    """Half of what certbot makes is an error that says which half."""
    save(THIRD, folder / "four/fullchain.pem", folder / "four/privkey.pem")
    (folder / "four/privkey.pem").unlink()
    with pytest.raises(ConfigError, match=r"four/privkey\.pem"):
        [files.load() for files in find(folder).files]


def test_who_may_read_it(folder: Path) -> None:
    """A key that everybody may read is told from one that a group may."""
    files, found = find(folder).files[0], []
    for mode in (0o600, 0o640, 0o644):
        files.key.chmod(mode)
        found.append(files.open_to_all)
    assert found == [False, False, True]
    assert not Files("x", folder / "absent", folder / "absent").open_to_all


# -- what tools make


def _authority(path: Path, *others: KeyPair) -> None:
    path.write_bytes(AUTHORITY.cert_pem.bytes() + b"".join(o.certificate_pem() for o in others))


def _leaf(path: Path) -> None:
    path.write_bytes(PAIR.chain[0].public_bytes(Encoding.PEM))


def _lego(folder: Path) -> None:
    for name, pair in (("example.org", PAIR), ("_.example.net", THIRD)):
        save(pair, folder / f"{name}.crt", folder / f"{name}.key")
        _authority(folder / f"{name}.issuer.crt")
        (folder / f"{name}.json").write_text("{}")
        (folder / f"{name}.pfx").write_bytes(b"x")


def _lego_with_pem(folder: Path) -> None:
    _lego(folder)
    (folder / "example.org.pem").write_bytes(key_pem(PAIR) + PAIR.certificate_pem())


def _certbot(folder: Path) -> None:
    save(PAIR, folder / "fullchain.pem", folder / "privkey.pem")
    _leaf(folder / "cert.pem")
    _authority(folder / "chain.pem")
    (folder / "README").write_text("hello")


def _cert_manager(folder: Path) -> None:
    data = folder / "..2026_01_01"
    save(PAIR, data / "tls.crt", data / "tls.key")
    _authority(data / "ca.crt")
    (data / "tls-combined.pem").write_bytes(key_pem(PAIR) + PAIR.certificate_pem())
    (data / "keystore.jks").write_bytes(b"x")
    (folder / "..data").symlink_to(data.name)
    for path in data.iterdir():
        (folder / path.name).symlink_to(f"..data/{path.name}")


def _self_signed_issuer(folder: Path) -> None:
    """cert-manager's, whose ca.crt is the certificate itself."""
    save(PAIR, folder / "tls.crt", folder / "tls.key")
    _leaf(folder / "ca.crt")


def _acme_sh(folder: Path) -> None:
    name = folder.name.removesuffix("_ecc")
    save(PAIR, folder / "fullchain.cer", folder / f"{name}.key")
    _leaf(folder / f"{name}.cer")
    _authority(folder / "ca.cer")
    for suffix in (".conf", ".csr", ".csr.conf"):
        (folder / f"{name}{suffix}").write_text("x")


def _acme_sh_copied(folder: Path) -> None:
    save(PAIR, folder / "fullchain.cer", folder / "example.net.key")


def _mkcert(folder: Path) -> None:
    for name in ("localhost+2", "_wildcard.example.org"):
        save(PAIR, folder / f"{name}.pem", folder / f"{name}-key.pem")


def _dumped(folder: Path) -> None:
    save(PAIR, folder / "certificate.crt", folder / "privatekey.key")


def _caddy(folder: Path) -> None:
    save(PAIR, folder / f"{folder.name}.crt", folder / f"{folder.name}.key")
    (folder / f"{folder.name}.json").write_text("{}")


def _traefik(folder: Path) -> None:
    kept = [stored(p.names[0], p.certificate_pem(), key_pem(p)) for p in (PAIR, THIRD)]
    (folder / "acme.json").write_text(json.dumps({"le": {"Certificates": kept}}))
    (folder / "acme.json").chmod(0o600)
    _authority(folder / "ca.pem")


AT_HOME: dict[str, tuple[Callable[[Path], None], int, set[str]]] = {
    "lego": (_lego, 2, {"_.example.net.issuer.crt", "example.org.issuer.crt"}),
    "lego --pem": (
        *(_lego_with_pem, 2),
        {"_.example.net.issuer.crt", "example.org.issuer.crt", "example.org.pem"},
    ),
    "certbot": (_certbot, 1, {"cert.pem", "chain.pem"}),
    "cert-manager": (_cert_manager, 2, {"ca.crt"}),
    "cert-manager, self-signed": (_self_signed_issuer, 1, {"ca.crt"}),
    "acme.sh": (_acme_sh, 1, set()),
    "acme.sh, copied": (_acme_sh_copied, 1, set()),
    "mkcert": (_mkcert, 2, set()),
    "traefik-certs-dumper": (_dumped, 1, set()),
    "Traefik": (_traefik, 2, {"ca.pem"}),
}


@pytest.mark.parametrize("tool", AT_HOME)
def test_folder_of_a_tool(tmp_path: Path, tool: str) -> None:
    """It is taken as it is; certificates that are nobody's to show are left alone, and named."""
    make, number, left = AT_HOME[tool]
    folder = tmp_path / "example.org_ecc"
    folder.mkdir()
    make(folder)
    found = find(folder)
    assert len(found.files) == number
    for files in found.files:
        assert files.load().chain in {PAIR.chain, THIRD.chain}
    assert {path.name for path in found.left} == left
    for path, why in found.left.items():
        assert "authority" in why or "the same certificate" in why, path


@pytest.mark.parametrize("make", [_certbot, _cert_manager, _acme_sh, _dumped, _caddy])
def test_folders_of_a_tool(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """It has a folder for each certificate, and others."""
    names = ["example.org", "example.org_ecc", "*.example.org_ecc"]
    for name in (*names, "ca", "accounts"):
        (tmp_path / name).mkdir()
    for name in names:
        make(tmp_path / name)
    (tmp_path / "ca/account.json").write_text("{}")
    found = find(tmp_path)
    assert [files.name for files in found.files] == sorted(names)
    assert [files.load().chain for files in found.files] == [PAIR.chain] * 3
    assert not found.left


def test_two_folders_side_by_side(tmp_path: Path) -> None:
    """As traefik-certs-dumper makes them."""
    for name in ("a.example", "b.example"):
        (tmp_path / "private").mkdir(exist_ok=True)
        save(PAIR, tmp_path / f"certs/{name}.crt", tmp_path / f"private/{name}.key")
    found = find(tmp_path / "certs")
    assert [files.load().chain for files in found.files] == [PAIR.chain] * 2


@pytest.mark.parametrize("tool", ["lego", "certbot", "cert-manager", "acme.sh", "mkcert"])
def test_half_of_what_a_tool_makes(tmp_path: Path, tool: str) -> None:
    """A certificate whose key is missing is an error, which names the key."""
    folder = tmp_path / "example.org_ecc"
    folder.mkdir()
    AT_HOME[tool][0](folder)
    for path in list(folder.rglob("*")):
        if b"PRIVATE KEY" in (path.read_bytes() if path.is_file() else b""):
            path.unlink()
    with pytest.raises(ConfigError, match="cannot read private key") as caught:
        [files.load() for files in find(folder).files]
    assert "key" in str(caught.value).rpartition("/")[2]


def test_traefik_goes_on(tmp_path: Path) -> None:
    """What is renewed, or given up, between a look and the next is no bug of ours."""
    _traefik(tmp_path)
    first, _ = find(tmp_path).files
    (tmp_path / "acme.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"acme\.json: le/.* is gone"):
        first.load()


def test_authority_with_an_odd_name(tmp_path: Path) -> None:
    """What cannot be read is no authority's, and its key is missed in one line."""
    save(PAIR, tmp_path / "a.crt", tmp_path / "a.key")
    der = PAIR.chain[0].public_bytes(Encoding.DER)
    name = PAIR.names[0].encode()
    at = der.index(b"\x82" + bytes([len(name)]) + name)
    odd = der[:at] + b"\xa5" + der[at + 1 :]  # ediPartyName, of which x509 knows nothing
    (tmp_path / "ca.crt").write_text(ssl.DER_cert_to_PEM_cert(odd))
    with pytest.raises(ConfigError, match="private key"):
        [files.load() for files in find(tmp_path).files]


def test_only_authorities(tmp_path: Path) -> None:
    """Then there is nothing to show."""
    _authority(tmp_path / "ca.crt")
    with pytest.raises(ConfigError, match="no certificate in"):
        find(tmp_path)


def test_certificate_that_is_none(folder: Path) -> None:
    """Where there is no key either, the error is about the certificate."""
    (folder / "seven.pem").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match=r"seven\.pem holds no usable PEM certificate"):
        find(folder)


# -- what is amiss


def test_nothing_amiss() -> None:
    """A good certificate gives no occasion."""
    assert amiss(PAIR) == []


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [(-2 * DAY, -DAY, "certificate expired on"), (DAY, 2 * DAY, "certificate is not valid before")],
)
def test_dates(begin: dt.timedelta, end: dt.timedelta, said: str) -> None:
    """Clients refuse what has ended or not begun."""
    (found,) = amiss(certify(AUTHORITY, "a.example", begin=begin, end=end))
    assert said in found


def test_responses(tmp_path: Path) -> None:
    """A response that is not stapled is one thing, and that one is needed another."""
    demanding = certify(AUTHORITY, "a.example", must_staple=True)
    assert ["demands" in complaint for complaint in amiss(demanding)] == [True]
    path = tmp_path / "it"
    path.write_bytes(respond(AUTHORITY, demanding))
    assert amiss(with_ocsp(demanding, path)) == []
    path.write_bytes(respond(AUTHORITY, demanding, begin=-2 * DAY, end=-DAY))
    stale, missing = amiss(with_ocsp(demanding, path))
    assert "expired" in stale
    assert "not stapled" in stale
    assert "demands" in missing


# -- changes


def test_fingerprint(folder: Path) -> None:
    """It changes with any file, also behind a link, and with a new or a missing one."""
    paths = [folder, folder / "absent"]
    seen = {fingerprint(paths)}
    assert fingerprint(paths) in seen
    (folder / "four/privkey.pem").write_bytes(b"x")
    seen.add(fingerprint(paths))
    os.utime(folder / "one.pem", ns=(0, 1))
    seen.add(fingerprint(paths))
    (folder / "three.ocsp").unlink()
    seen.add(fingerprint(paths))
    replacement = folder / "two.new"
    replacement.write_bytes((folder / "two.pem").read_bytes())
    replacement.rename(folder / "two.pem")
    seen.add(fingerprint(paths))
    (folder / "absent").touch()
    seen.add(fingerprint(paths))
    assert len(seen) == 6
    before = fingerprint(paths)
    (folder / ".new").touch()
    assert fingerprint(paths) == before
