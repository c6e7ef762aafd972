"""Tests of store: whom the anchors of a folder, a file or the system's store make acceptable."""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certificates import DAY, sign
from tests.conftest import HOST, issue
from tests.doubles import EnginePair
from tests.spellings import bad, good
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_pair import KeyPair
from tlsify.credentials.self_signed import make_key_pair
from tlsify.credentials.system_store import BUNDLES
from tlsify.errors import ConfigError, HandshakeError, IdentityError
from tlsify.sslcontext.context import SSLContext
from tlsify.tls.certificates import digest_of_anchors
from tlsify.tls.connection_factory import Connections
from tlsify.trust import store as module
from tlsify.trust.store import load, system

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGERS = [make_key_pair([f"{number}.example"]).certificate_pem() for number in range(3)]


def pem(certificate: x509.Certificate) -> bytes:
    """Write one certificate."""
    return certificate.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def chain(authority: trustme.CA) -> KeyPair:
    """A server with an intermediate authority between it and the root."""
    return issue(authority.create_child_ca(), HOST)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with anchors of strangers."""
    folder = tmp_path / "anchors"
    folder.mkdir()
    for number, stranger in enumerate(STRANGERS):
        (folder / f"{number}.pem").write_bytes(stranger)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the test's own."""
    return tmp_path / "cache"


def accepts(trust: TrustAnchors, server: KeyPair) -> bool:
    """Return whether a client with these anchors accepts a server."""
    client = replace(ClientConfig.for_host(HOST), trust=trust)
    try:
        EnginePair(client, ServerConfig(key_pair=server)).run()
    except IdentityError:
        return False
    return True


# -- folders


def test_root_in_a_folder(source: Path, cache: Path, authority: trustme.CA, chain: KeyPair) -> None:
    """Who is in the folder is trusted, at the first start and at any later one; strangers not."""
    assert not accepts(load(source, cache), chain)
    (source / "root.crt").write_bytes(authority.cert_pem.bytes())
    for _ in range(2):
        anchors = load(source, cache)
        assert anchors.lookup is not None
        assert accepts(anchors, chain)
        assert not accepts(anchors, issue(trustme.CA(), HOST))


@pytest.mark.parametrize("position", [0, 1])
def test_anchor_that_is_no_root(source: Path, cache: Path, chain: KeyPair, position: int) -> None:
    """Whatever is in the folder is an anchor: an intermediate, or the peer's own certificate."""
    (source / "it.pem").write_bytes(pem(chain.chain[position]))
    for _ in range(2):
        anchors = load(source, cache)
        assert anchors.lookup is not None
        assert accepts(anchors, chain)
        alone = KeyPair(chain.chain[:1], chain.key)
        assert accepts(anchors, alone)


def test_file_with_several_in_a_folder(
    source: Path, cache: Path, authority: trustme.CA, chain: KeyPair
) -> None:
    """The one that is needed is found among others, before or behind it."""
    root = authority.cert_pem.bytes()
    for content in (STRANGERS[0] + root, root + STRANGERS[0]):
        (source / "it.pem").write_bytes(content)
        assert accepts(load(source, cache), chain)


def test_authorities_of_one_name(source: Path, cache: Path, chain: KeyPair) -> None:
    """Both keys of an authority that has changed its key are found, in whatever files they are."""
    first, second = make_key_pair([HOST]), make_key_pair([HOST])
    (source / "first.pem").write_bytes(pem(first.chain[0]) + STRANGERS[0])
    (source / "second.pem").write_bytes(STRANGERS[1] + pem(second.chain[0]))
    anchors = load(source, cache)
    assert anchors.lookup is not None
    assert accepts(anchors, first)
    assert accepts(anchors, second)
    assert not accepts(anchors, chain)


def test_removed_anchor(source: Path, cache: Path, authority: trustme.CA, chain: KeyPair) -> None:
    """Who is taken out of the folder is not trusted any more, by a later start or a running one."""
    (source / "root.pem").write_bytes(authority.cert_pem.bytes())
    running = load(source, cache)
    (source / "root.pem").unlink()
    assert not accepts(running, chain)
    assert not accepts(load(source, cache), chain)


def test_index_that_lies(
    source: Path, cache: Path, authority: trustme.CA, chain: KeyPair, tmp_path: Path
) -> None:
    """An index with a link to somewhere else is made anew, and what it says is not believed."""
    (tmp_path / "evil").write_bytes(authority.cert_pem.bytes())
    (source / "it.pem").write_bytes(authority.cert_pem.bytes())
    anchors = load(source, cache)
    assert anchors.lookup is not None
    (source / "it.pem").write_bytes(STRANGERS[0])
    old = anchors.lookup.folders
    stale = load(source, cache)
    assert stale.lookup is not None
    assert stale.lookup.folders != old
    folder = Path(*stale.lookup.folders)
    before = folder.stat().st_ctime_ns
    while folder.stat().st_ctime_ns == before:
        link = next(folder.glob("*.0"))
        link.unlink()
        link.symlink_to(tmp_path / "evil")
    found = load(source, cache).lookup
    assert found is not None
    assert found.folders != (folder,)
    assert not accepts(TrustAnchors(lookup=found), chain)


def test_content_of_a_folder(source: Path, cache: Path) -> None:
    """Sessions made with other anchors must not be resumed: what is trusted can be told apart."""
    first, again = load(source, cache).lookup, load(source, cache).lookup
    (source / "2.pem").unlink()
    changed = load(source, cache).lookup
    assert first is not None
    assert again is not None
    assert changed is not None
    assert first.content == again.content != changed.content


def test_without_a_cache(
    source: Path,
    tmp_path: Path,
    authority: trustme.CA,
    chain: KeyPair,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cache that cannot be had costs time, and is mentioned to those who look closely."""
    (source / "root.pem").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "file").touch()
    with caplog.at_level(logging.DEBUG, "tlsify"):
        anchors = load(source, tmp_path / "file")
    assert anchors.lookup is not None
    assert len(anchors.lookup.anchors) == 4
    assert accepts(anchors, chain)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "without an index" in caplog.text


def test_own_cache(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another is named it is the caller's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = load(source).lookup
    assert found is not None
    assert Path(found.folders[0]).parent == tmp_path / "xdg/tlsify/trust"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    unindexed = load(source).lookup
    assert unindexed is not None
    assert not unindexed.folders


def test_relative_path(
    source: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    authority: trustme.CA,
    chain: KeyPair,
) -> None:
    """A path is good from anywhere once it is resolved, and one folder has one index."""
    (source / "root.pem").write_bytes(authority.cert_pem.bytes())
    (source.parent / "link").symlink_to(source)
    monkeypatch.chdir(source.parent)
    found = [load(Path(name), cache) for name in ("anchors", "./link", str(source))]
    monkeypatch.chdir("/")
    assert len({anchors.lookup and anchors.lookup.folders for anchors in found}) == 1
    assert accepts(found[0], chain)


@pytest.mark.parametrize("name", ["absent", "anchors/absent", "anchors/0.pem/absent"])
def test_path_that_leads_nowhere(source: Path, cache: Path, name: str) -> None:
    """It is named with the system's reason."""
    with pytest.raises(ConfigError, match=r"cannot read trust anchors .*absent"):
        load(source.parent / name, cache)


def test_broken_file_in_a_folder(source: Path, cache: Path, tmp_path: Path) -> None:
    """It is named with a cache and without, at every start."""
    (source / "it.pem").write_text("garbage")
    for folder in (cache, cache, tmp_path / "anchors/0.pem"):
        with pytest.raises(ConfigError, match=r"it\.pem holds no usable PEM certificate"):
            load(source, folder)


def test_second_start_parses_nothing(source: Path, cache: Path) -> None:
    """A start with an index imports no parser, and opens no file of the folder."""
    load(source, cache)
    program = (
        "import sys; from pathlib import Path; from tlsify.trust.store import load;"
        "sys.addaudithook(lambda event, words: event == 'open' and print(words[0]));"
        "load(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(*(name for name in sys.modules if name.startswith(('cryptography', 'OpenSSL'))))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(source), str(cache)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stderr == ""
    opened = [path for path in map(Path, ran.stdout.split()) if path.suffix not in {".py", ".pyc"}]
    assert [path.name for path in opened] == ["lock"]


# -- files


def test_file(tmp_path: Path, authority: trustme.CA, chain: KeyPair) -> None:
    """A file holds one anchor or several, of whatever kind."""
    path = tmp_path / "it"
    path.write_bytes(STRANGERS[0] + authority.cert_pem.bytes())
    assert accepts(load(path), chain)
    path.write_bytes(pem(chain.chain[0]))
    assert accepts(load(path), chain)
    path.write_bytes(STRANGERS[0])
    assert not accepts(load(path), chain)


def test_file_that_is_gone_when_it_is_needed(
    tmp_path: Path, authority: trustme.CA, chain: KeyPair
) -> None:
    """What was loaded is in memory."""
    path = tmp_path / "it.pem"
    path.write_bytes(authority.cert_pem.bytes())
    anchors = load(path)
    path.write_bytes(b"garbage")
    assert accepts(anchors, chain)


# -- every way to write a file, by every door


def _by_file(path: Path) -> TrustAnchors:
    return load(path)


def _by_folder(path: Path) -> TrustAnchors:
    return load(path.parent, path.parent.parent / "cache")


def _by_context(**where: Any) -> TrustAnchors:
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(**where)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context.client_config(HOST).trust


DOORS: dict[str, Callable[[Path], TrustAnchors]] = {
    "--ca FILE": _by_file,
    "--ca DIR": _by_folder,
    "--ca DIR, a second time": _by_folder,
    "a file in memory": TrustAnchors.load,
    "a folder in memory": lambda path: TrustAnchors.load(path.parent),
    "cafile": lambda path: _by_context(cafile=path),
    "capath": lambda path: _by_context(capath=path.parent),
    "cadata": lambda path: _by_context(cadata=path.read_bytes().decode("latin-1")),
}


@pytest.fixture(scope="module")
def root() -> tuple[bytes, KeyPair]:
    """An authority in PEM, and a server of its."""
    authority = trustme.CA()
    return authority.cert_pem.bytes(), issue(authority, HOST)


@pytest.mark.parametrize("spelling", good(STRANGERS[0]))
def test_file_that_is_good(tmp_path: Path, root: tuple[bytes, KeyPair], spelling: str) -> None:
    """By whatever door it comes, its certificate is trusted, in a handshake."""
    path = tmp_path / "folder/it.pem"
    path.parent.mkdir()
    (path.parent / "other.pem").write_bytes(STRANGERS[2])
    path.write_bytes(good(root[0])[spelling])
    assert {door: accepts(take(path), root[1]) for door, take in DOORS.items()} == dict.fromkeys(
        DOORS, True
    )


@pytest.mark.parametrize("spelling", bad(STRANGERS[0]))
def test_file_that_is_bad(tmp_path: Path, root: tuple[bytes, KeyPair], spelling: str) -> None:
    """By whatever door it comes, it is refused by its name, before anything is sent."""
    path = tmp_path / "folder/it.pem"
    path.parent.mkdir()
    content, said = bad(root[0])[spelling]
    for door, take in DOORS.items():
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            accepts(take(path), root[1])
        assert door == "cadata" or said in f"{caught.value} {caught.value.hint}", door
        assert ("cadata" if door == "cadata" else "it.pem") in str(caught.value), door


def test_file_in_a_folder_that_openssl_reads_otherwise(
    source: Path, cache: Path, root: tuple[bytes, KeyPair], caplog: pytest.LogCaptureFixture
) -> None:
    """Then OpenSSL is not left to look for it; once it is written as usual, it is."""
    (source / "it.pem").write_bytes(good(root[0])["joined without a line break"])
    with caplog.at_level(logging.DEBUG, "tlsify"):
        found = load(source, cache)
    assert accepts(found, root[1])
    assert found.lookup is not None
    assert not found.lookup.folders
    assert "OpenSSL would not read every certificate of" in caplog.text
    (source / "it.pem").write_bytes(root[0])
    found = load(source, cache)
    assert accepts(found, root[1])
    assert found.lookup is not None
    assert found.lookup.folders


def test_pipe(tmp_path: Path, authority: trustme.CA, chain: KeyPair) -> None:
    """What can be read only once is read only once, as for a shell's <(...)."""
    path = tmp_path / "it"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(authority.cert_pem.bytes(),))
    writer.start()
    anchors = load(path)
    writer.join()
    assert accepts(anchors, chain)


# -- chains as servers show them, to anchors of all kinds, by every door


def _may_issue(length: int | None = None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=True, path_length=length)


def _for(*uses: x509.ObjectIdentifier) -> KeyPair:
    return sign("leaf", MIDDLE, NAMED, x509.ExtendedKeyUsage(uses))


def _within(permitted: str | None, excluded: str | None) -> list[KeyPair]:
    """Make a chain whose intermediate may issue for some names only."""
    trees = ([x509.DNSName(name)] if name else None for name in (permitted, excluded))
    middle = sign("middle", ROOT, _may_issue(), x509.NameConstraints(*trees))
    return [sign("Example & Sons, Ltd", middle, NAMED), middle]


def _long(count: int, length: int | None = None) -> list[KeyPair]:
    """Make a chain of some intermediates, the first of which says how many are to follow."""
    made = [sign("0", ROOT, _may_issue(length))]
    for number in range(1, count):
        made.insert(0, sign(f"{number}", made[0], _may_issue()))
    return [sign("leaf", made[0], NAMED), *made]


sign_long_ago = partial(sign, begin=-9 * DAY, end=-DAY)  # what is over by now
NAMED = x509.SubjectAlternativeName([x509.DNSName(HOST)])
MANY = [x509.DNSName(f"{number:020}.example.net") for number in range(2700)]  # of 34 bytes each
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")

ROOT = sign("root", None, _may_issue())
TWIN = sign("root", None, _may_issue())
MIDDLE = sign("middle", ROOT, _may_issue())
LEAF = sign("leaf", MIDDLE, NAMED)
OTHER_ROOT = sign("other root", None, _may_issue())
# Roots that were certified by another one, before their own was everywhere.
OLD_ROOT = sign_long_ago("old root", None, _may_issue())
CROSS = sign("root", OLD_ROOT, _may_issue(), key=ROOT.key)
OLD_CROSS = sign_long_ago("root", OLD_ROOT, _may_issue(), key=ROOT.key)
OLD_MIDDLE = sign_long_ago("middle", ROOT, _may_issue(), key=MIDDLE.key)
LONG = _long(12)
SELF_SIGNED = sign(HOST, None, NAMED)

# What is trusted, what is shown, and whether that is enough.
CHAINS: dict[str, tuple[list[KeyPair], list[KeyPair], bool]] = {
    "usual": ([ROOT], [LEAF, MIDDLE], True),
    "intermediate left out": ([ROOT], [LEAF], False),
    "cross-signed": ([ROOT], [LEAF, MIDDLE, CROSS], True),
    "cross-signed by a root that is over": ([OLD_ROOT, ROOT], [LEAF, MIDDLE, CROSS], True),
    "only the root that is over": ([OLD_ROOT], [LEAF, MIDDLE, CROSS], False),
    "old cross-sign in front of the root": ([OLD_CROSS, ROOT], [LEAF, MIDDLE], True),
    "old cross-sign behind the root": ([ROOT, OLD_CROSS], [LEAF, MIDDLE], True),
    "only the old cross-sign": ([OLD_CROSS], [LEAF, MIDDLE], False),
    "old intermediate": ([ROOT], [LEAF, OLD_MIDDLE], False),
    "old intermediate in front of the new one": ([ROOT], [LEAF, OLD_MIDDLE, MIDDLE], True),
    "old intermediate behind the new one": ([ROOT], [LEAF, MIDDLE, OLD_MIDDLE], True),
    "old intermediate, and the new one trusted": ([ROOT, MIDDLE], [LEAF, OLD_MIDDLE], True),
    "intermediate as the only anchor": ([MIDDLE], [LEAF, MIDDLE, ROOT], True),
    "wrong order": ([ROOT], [LEAF, ROOT, MIDDLE], True),
    "another root in between": ([ROOT], [LEAF, OTHER_ROOT, MIDDLE, OTHER_ROOT], True),
    "root shown, twice": ([ROOT], [LEAF, MIDDLE, ROOT, ROOT], True),
    "root shown, and not trusted": ([OTHER_ROOT], [LEAF, MIDDLE, ROOT], False),
    "twelve intermediates": ([ROOT], LONG, True),
    "twelve in the wrong order": ([ROOT], [LONG[0], *LONG[:0:-1]], True),
    "leaf of 94 kB": (
        [ROOT],
        [sign("leaf", MIDDLE, x509.SubjectAlternativeName([*NAMED, *MANY])), MIDDLE],
        True,
    ),
    "twin in front of the root": ([TWIN, ROOT], [LEAF, MIDDLE], True),
    "twin behind the root": ([ROOT, TWIN], [LEAF, MIDDLE], True),
    "only the twin": ([TWIN], [LEAF, MIDDLE], False),
    "self-signed leaf as anchor": ([SELF_SIGNED], [SELF_SIGNED], True),
    "self-signed leaf": ([ROOT], [SELF_SIGNED], False),
    "leaf as anchor": ([LEAF], [LEAF], True),
    "leaf as issuer": ([ROOT], [sign("x", LEAF, NAMED), LEAF, MIDDLE], False),
    "leaf as anchor, and issuer": ([LEAF], [sign("x", LEAF, NAMED), LEAF], False),
    "names that are permitted": ([ROOT], _within(HOST, None), True),
    "names that are not permitted": ([ROOT], _within("example.net", None), False),
    "names that are excluded": ([ROOT], _within(None, HOST), False),
    "names that are not excluded": ([ROOT], _within(None, "example.net"), True),
    "no intermediate may follow, nor does": ([ROOT], _long(1, 0), True),
    "no intermediate may follow": ([ROOT], _long(2, 0), False),
    "one intermediate may follow": ([ROOT], _long(2, 1), True),
    "for servers": ([ROOT], [_for(ExtendedKeyUsageOID.SERVER_AUTH), MIDDLE], True),
    "for clients": ([ROOT], [_for(ExtendedKeyUsageOID.CLIENT_AUTH), MIDDLE], False),
    "for OCSP": ([ROOT], [_for(ExtendedKeyUsageOID.OCSP_SIGNING), MIDDLE], False),
    "for any use": ([ROOT], [_for(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), MIDDLE], False),
    "unknown, and critical": ([ROOT], [sign("leaf", MIDDLE, NAMED, UNKNOWN), MIDDLE], False),
    "only a common name": ([ROOT], [sign(HOST, MIDDLE), MIDDLE], False),
}


@pytest.mark.parametrize("case", CHAINS)
def test_chain(tmp_path: Path, case: str) -> None:
    """By whatever door its anchors come, a chain is judged alike, and rightly."""
    anchors, shown, is_enough = CHAINS[case]
    path = tmp_path / "folder/it.pem"
    path.parent.mkdir()
    path.write_bytes(b"".join(anchor.certificate_pem() for anchor in anchors))
    server = KeyPair(tuple(each.chain[0] for each in shown), shown[0].key)
    verdicts = {door: accepts(take(path), server) for door, take in DOORS.items()}
    assert verdicts == dict.fromkeys(DOORS, is_enough)


# -- the system's store


def _store(tmp_path: Path, count: int) -> tuple[Path, Path]:
    folder = tmp_path / "certs"
    folder.mkdir()
    bundle = folder / "ca-certificates.crt"
    bundle.write_bytes(STRANGERS[0])
    for number in range(count):
        (folder / f"{number:08x}.0").write_bytes(STRANGERS[0])
    os.utime(bundle, (1, 1))
    return bundle, folder


def test_store_that_can_be_searched(tmp_path: Path) -> None:
    """Debian's layout, and that of most: the bundle need not be read."""
    bundle, folder = _store(tmp_path, 20)
    absent = tmp_path / "absent"
    assert module.find_store([absent, bundle], [absent, folder]) == ([], [folder])


def test_store_with_something_added_by_hand(tmp_path: Path) -> None:
    """A bundle newer than its folder may hold more; a folder with a few links holds less."""
    bundle, folder = _store(tmp_path, 20)
    os.utime(bundle)
    os.utime(folder, (1, 1))
    assert module.find_store([bundle], [folder]) == ([bundle], [folder])
    (tmp_path / "other").mkdir()
    bundle, folder = _store(tmp_path / "other", 3)
    assert module.find_store([bundle], [folder]) == ([bundle], [folder])


def test_store_in_one_place_only(tmp_path: Path) -> None:
    """Either will do alone."""
    bundle, folder = _store(tmp_path, 3)
    assert module.find_store([bundle], []) == ([bundle], [])
    assert module.find_store([bundle], [tmp_path]) == ([bundle], [])
    bundle.unlink()
    assert module.find_store([bundle], [folder]) == ([], [folder])


def test_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without one is told what to do."""
    monkeypatch.setattr(module, "BUNDLES", ("/nonexistent",))
    monkeypatch.setattr(module, "FOLDERS", ("/nonexistent",))
    with pytest.raises(ConfigError, match="no store") as caught:
        system({})
    assert "ca-certificates" in caught.value.hint
    assert "--ca" in caught.value.hint


def test_store_of_this_host(chain: KeyPair) -> None:
    """Wherever it is, it holds authorities, and not the tests' one."""
    if not any(map(os.path.exists, BUNDLES)):
        pytest.skip("this host has no trust store")
    anchors = system({})
    assert not accepts(anchors, chain)
    assert anchors.lookup is not None
    assert not anchors.lookup.chosen


def test_store_that_the_environment_names(
    tmp_path: Path, authority: trustme.CA, chain: KeyPair
) -> None:
    """SSL_CERT_FILE and SSL_CERT_DIR replace it, as they do for OpenSSL."""
    path = tmp_path / "it.pem"
    path.write_bytes(authority.cert_pem.bytes())
    assert accepts(system({"SSL_CERT_FILE": str(path)}), chain)
    found = load(_folder_of(path, tmp_path), tmp_path / "cache").lookup
    assert found is not None
    folders = f"/nonexistent:{found.folders[0]}"
    assert accepts(system({"SSL_CERT_DIR": folders}), chain)
    assert accepts(system({"SSL_CERT_FILE": "/nonexistent", "SSL_CERT_DIR": folders}), chain)
    path.write_bytes(STRANGERS[0])
    assert not accepts(system({"SSL_CERT_FILE": str(path)}), chain)


@pytest.mark.parametrize("make", [system, TrustAnchors])
def test_system_s_store_that_changes(
    tmp_path: Path,
    chain: KeyPair,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], TrustAnchors],
) -> None:
    """What sessions were verified by is what the store held before OpenSSL read any of it."""
    path = tmp_path / "it.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    path.write_bytes(STRANGERS[0])
    before, of_client, of_server = make(), make(), make()
    digests = {digest_of_anchors(before)}
    client = replace(ClientConfig.for_host(HOST), trust=of_client, session_store=tmp_path)
    for config in (client, ServerConfig(key_pair=chain, client_trust=of_server)):
        Connections(config, config.aeads)
    path.write_bytes(STRANGERS[0] + STRANGERS[1])
    digests |= {digest_of_anchors(each) for each in (before, of_client, of_server)}
    assert len(digests) == 1
    assert digest_of_anchors(make()) not in digests


def _folder_of(path: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "it.pem").write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_environment_that_leads_nowhere(variable: str) -> None:
    """Trusting nobody is not what its author wanted."""
    with pytest.raises(ConfigError) as caught:
        system({variable: "/nonexistent"})
    assert variable in caught.value.hint


def test_environment_of_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A setuid program's caller does not choose whom it trusts."""
    bundle, _ = _store(tmp_path, 0)
    monkeypatch.setattr(module, "BUNDLES", (str(bundle),))
    monkeypatch.setattr(module, "FOLDERS", ())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
    other = os.getuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    found = system().lookup
    assert found is not None
    assert found.files == (str(bundle),)


def test_bundle_that_is_broken(tmp_path: Path) -> None:
    """A store that OpenSSL cannot read is an error, not an empty store."""
    path = tmp_path / "it.pem"
    path.write_text("garbage")
    with pytest.raises(ConfigError, match=r"it\.pem holds a PEM certificate that is"):
        accepts(system({"SSL_CERT_FILE": str(path)}), make_key_pair([HOST]))


# -- servers


@pytest.mark.parametrize("how", [load, lambda path, _: TrustAnchors.load(path)])
def test_anchors_for_clients(
    how: Callable[[Path, Path], TrustAnchors],
    source: Path,
    cache: Path,
    chain: KeyPair,
    authority: trustme.CA,
) -> None:
    """A server's anchors for its clients may come from the same places."""
    (source / "root.pem").write_bytes(authority.cert_pem.bytes())
    client = ClientConfig(verify=False, key_pair=chain)
    server = ServerConfig(
        key_pair=make_key_pair([HOST]), client_trust=how(source, cache), client_required=True
    )
    _, outcome = EnginePair(client, server).run()
    assert outcome.peer_certificate == chain.chain[0]
    with pytest.raises(HandshakeError):
        EnginePair(replace(client, key_pair=make_key_pair([HOST])), server).run()
