"""Tests of session_store."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import make_crl
from tlsify.codepoints import Aead, ProtocolVersion
from tlsify.config import ClientConfig
from tlsify.connection.setup import session_store as module
from tlsify.connection.setup.session_store import (
    IN_FOLDER,
    PER_ORIGIN,
    RENEWABLE,
    Origin,
    SessionStore,
    StoredSession,
    decode,
    encode,
)
from tlsify.credentials.anchors import Lookup, TrustAnchors
from tlsify.credentials.parse import parse_crls
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError
from tlsify.names import ReferenceIdentifier
from tlsify.tls.negotiated import Resumable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsify.credentials.key_pair import KeyPair

ADDRESS = ("192.0.2.1", 443)
CONFIG = ClientConfig.for_host("example.org")
ORIGIN = Origin.of(CONFIG, ADDRESS)
DIGEST = ORIGIN.digest()
SECRET = b"planted secret"
FAR = 2**40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a store is to be."""
    return tmp_path / "sessions"


@pytest.fixture
def store(folder: Path) -> SessionStore:
    """An empty store."""
    return SessionStore(folder)


def kept(session: bytes = SECRET, expires: float = FAR) -> StoredSession:
    """A session that is good until then."""
    return StoredSession(session, expires, FAR)


def mode(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.lstat().st_mode)


# -- origins


LOOKUP = Lookup((), (Path("anchors"),), chosen=True, content=b"a")

LISTS = parse_crls(make_crl(trustme.CA()), "it")
CHANGES = {
    "host": replace(CONFIG, server_name="www.example.org"),
    "alpn": replace(CONFIG, alpn=(b"h2",)),
    "identities": replace(CONFIG, identities=(ReferenceIdentifier.parse("ip:192.0.2.1"),)),
    "verify": replace(CONFIG, verify=False),
    "trust": replace(CONFIG, trust=TrustAnchors(make_key_pair(["a"]).chain)),
    "no trust": replace(CONFIG, trust=TrustAnchors(())),
    "partial paths": replace(CONFIG, trust=TrustAnchors(lookup=replace(LOOKUP, chosen=False))),
    "folder": replace(CONFIG, trust=TrustAnchors(lookup=LOOKUP)),
    "folder that has changed": replace(
        CONFIG, trust=TrustAnchors(lookup=replace(LOOKUP, content=b"b"))
    ),
    "pins": replace(CONFIG, pins=(bytes(32),)),
    "crls": replace(CONFIG, crls=LISTS),
    "crls of all": replace(CONFIG, crls=LISTS, crl_check_all=True),
    "certificate": replace(CONFIG, key_pair=make_key_pair(["b"])),
    "versions": replace(CONFIG, versions=frozenset({ProtocolVersion.TLSv1_3})),
    "aeads": replace(CONFIG, aeads=(Aead.AES_GCM_256,)),
}


def test_every_difference_counts() -> None:
    """Whatever is different about a connection, it has an origin of its own."""
    origins = [ORIGIN, *(Origin.of(config, ADDRESS) for config in CHANGES.values())]
    origins.append(Origin.of(CONFIG, ("192.0.2.1", 8443)))
    origins.append(Origin.of(CONFIG, ADDRESS, (Aead.AES_GCM_128,)))
    origins += [Origin.of(CONFIG, path) for path in ("/run/a", "/run/b", b"\0a", "443", "")]
    assert len({origin.digest() for origin in origins}) == len(origins) == len(set(origins))


def test_same_origin() -> None:
    """Configurations that mean the same share their sessions, at any address of the name."""
    names = tuple(map(ReferenceIdentifier.for_host, ("a.example", "b.example")))
    first, second = replace(CONFIG, identities=names), replace(CONFIG, identities=names[::-1])
    assert Origin.of(first, ADDRESS) == Origin.of(second, ("2001:db8::1", 443, 0, 0))
    chain = tuple(make_key_pair([name]).chain[0] for name in "ab")
    origins = {
        Origin.of(replace(CONFIG, trust=TrustAnchors(anchors)), ADDRESS)
        for anchors in (chain, chain[::-1])
    }
    assert len(origins) == 1


def test_peer_without_a_name() -> None:
    """Where no name is sent the address takes its place."""
    nameless = ClientConfig(verify=False)
    assert Origin.of(nameless, ADDRESS).host == "192.0.2.1"
    others: list[Any] = [("192.0.2.2", 443), ("fe80::1", 443, 0, 1), ("fe80::1", 443, 0, 2)]
    others += ["/run/a", "/run/b", b"\0a", ""]
    assert len({Origin.of(nameless, address) for address in (ADDRESS, *others)}) == 1 + len(others)


ORIGINS = st.builds(
    Origin,
    host=st.text(max_size=5),
    port=st.integers(0, 3),
    alpn=st.lists(st.binary(max_size=3), max_size=3).map(tuple),
    identities=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    verify=st.booleans(),
    trust=st.binary(max_size=3),
    pins=st.lists(st.binary(max_size=3), max_size=3).map(tuple),
    crls=st.binary(max_size=3),
    certificate=st.binary(max_size=3),
    versions=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    aeads=st.lists(st.text(max_size=3), max_size=3).map(tuple),
)


@given(ORIGINS, ORIGINS)
def test_digest_tells_origins_apart(one: Origin, other: Origin) -> None:
    """Two origins have the same digest exactly if they are equal."""
    assert (one.digest() == other.digest()) is (one == other)
    assert len(one.digest()) == 32


@given(ORIGINS, ORIGINS, st.sampled_from(Origin.__slots__))
def test_any_field_changes_the_digest(one: Origin, other: Origin, name: str) -> None:
    """One field alone makes the difference."""
    changed = replace(one, **{name: getattr(other, name)})
    assert (one.digest() == changed.digest()) is (getattr(one, name) == getattr(other, name))


# -- one file


@given(st.binary(min_size=1, max_size=300), st.integers(0, 2**40), st.integers(0, 2**40))
def test_written_and_read(session: bytes, expires: int, renewable: int) -> None:
    """What was written is read, by its own origin only."""
    content = encode(DIGEST, StoredSession(session, expires, renewable))
    assert decode(DIGEST, content) == StoredSession(session, expires, renewable)
    assert decode(bytes(32), content) is None


@given(st.binary(max_size=200), st.integers(0, 200))
def test_damaged_content(noise: bytes, position: int) -> None:
    """Damage anywhere is found, and a part is nothing."""
    good = encode(DIGEST, kept())
    position %= len(good)
    damaged = good[:position] + noise + good[position + 1 :]
    assert damaged == good or decode(DIGEST, damaged) is None
    assert decode(DIGEST, good[:position]) is None
    assert decode(DIGEST, noise) is None


def test_times_out_of_bounds() -> None:
    """A time before the epoch is written as the epoch."""
    assert decode(DIGEST, encode(DIGEST, StoredSession(b"x", -5.5, 0.9))) == StoredSession(
        b"x", 0, 0
    )


# -- the folder


def test_folder_is_made(folder: Path, store: SessionStore) -> None:
    """The folder is for its owner only, and so is each file, whatever the umask."""
    assert mode(folder) == 0o700
    before = os.umask(0)
    try:
        store.keep(ORIGIN, kept())
    finally:
        os.umask(before)
    (file,) = folder.iterdir()
    assert mode(file) == 0o600
    assert "example" not in file.name
    SessionStore(folder)


@pytest.mark.parametrize("permissions", [0o750, 0o701, 0o720, 0o777])
def test_folder_open_to_others(folder: Path, permissions: int) -> None:
    """Others must not even be able to list it."""
    folder.mkdir()
    folder.chmod(permissions)
    with pytest.raises(ConfigError, match="not private") as caught:
        SessionStore(folder)
    assert "chmod 700" in caught.value.hint
    assert mode(folder) == permissions


def test_folder_of_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the folder can open it to others at any time."""
    folder.mkdir(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="not private"):
        SessionStore(folder)


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "no parent"])
def test_no_folder(folder: Path, tmp_path: Path, kind: str) -> None:
    """What is no folder is refused, even a link to a private one."""
    real = tmp_path / "real"
    real.mkdir(0o700)
    match kind:
        case "link":
            folder.symlink_to(real)
        case "dangling link":
            folder.symlink_to(tmp_path / "absent")
        case "file":
            folder.touch(0o600)
        case _:
            folder = folder / "deeper"
    with pytest.raises(ConfigError, match="cannot use session folder") as caught:
        SessionStore(folder)
    assert "of your own" in caught.value.hint


# -- take and keep


def test_single_use(folder: Path, store: SessionStore) -> None:
    """A session is gone once it is taken; the newest comes first."""
    for number in range(3):
        store.keep(ORIGIN, kept(bytes([number]) + SECRET))
    taken = [store.take(ORIGIN) for _ in range(4)]
    assert [each and each.session[0] for each in taken] == [2, 1, 0, None]
    assert list(folder.iterdir()) == []


def test_other_origins(store: SessionStore) -> None:
    """An origin gets its own sessions only."""
    store.keep(ORIGIN, kept())
    for config in CHANGES.values():
        assert store.take(Origin.of(config, ADDRESS)) is None
    assert store.take(ORIGIN) == kept()


def test_expired(folder: Path, store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expired is not kept, not given, and removed in passing."""
    store.keep(ORIGIN, kept(expires=time.time()))
    assert list(folder.iterdir()) == []
    store.keep(ORIGIN, kept(expires=time.time() + 100))
    store.keep(replace(ORIGIN, port=1), kept(expires=time.time() + 100))
    later = time.time() + 101
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.take(ORIGIN) is None
    assert len(list(folder.iterdir())) == 1
    store.keep(replace(ORIGIN, port=2), kept())
    assert len(list(folder.iterdir())) == 1


def test_clock_that_was_ahead(
    folder: Path, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept then is neither taken, nor in the way of what is kept since."""
    right, ahead = time.time_ns, lambda: time.time_ns() + 10**9 * 86400 * 365

    def keep(clock: Callable[[], int], name: str) -> None:
        present = clock()
        with monkeypatch.context() as patch:
            fake = SimpleNamespace(time=lambda: present / 1e9, time_ns=lambda: present)
            patch.setattr(module, "time", fake)
            for number in range(PER_ORIGIN):
                store.keep(ORIGIN, kept(f"{name} {number}".encode()))

    keep(ahead, "ahead")
    keep(right, "right")
    assert len(list(folder.iterdir())) == PER_ORIGIN
    taken = [store.take(ORIGIN) for _ in range(PER_ORIGIN)]
    assert all(each is not None and each.session.startswith(b"right") for each in taken)
    keep(ahead, "ahead")
    assert store.take(ORIGIN) is None
    assert not list(folder.iterdir())


def test_too_many_of_an_origin(folder: Path, store: SessionStore) -> None:
    """The oldest make room."""
    other = replace(ORIGIN, port=1)
    store.keep(other, kept())
    for number in range(PER_ORIGIN + 3):
        store.keep(ORIGIN, kept(bytes([number])))
    assert len(list(folder.iterdir())) == PER_ORIGIN + 1
    found = [store.take(ORIGIN) for _ in range(PER_ORIGIN + 1)]
    assert [each and each.session[0] for each in found] == [*range(PER_ORIGIN + 2, 2, -1), None]
    assert store.take(other)


def test_too_many_altogether(
    folder: Path, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has a bound, too: the oldest of all make room."""
    assert IN_FOLDER == 1024
    monkeypatch.setattr(module, "IN_FOLDER", 5)
    for port in range(8):
        store.keep(replace(ORIGIN, port=port), kept())
    assert len(list(folder.iterdir())) == 5
    assert [store.take(replace(ORIGIN, port=p)) is not None for p in range(8)] == [False] * 3 + (
        [True] * 5
    )


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "oversized", "noise"])
def test_damaged_file(folder: Path, store: SessionStore, damage: str) -> None:
    """A file that is not what it should be is removed, and the next one given."""
    store.keep(ORIGIN, kept(b"older"))
    store.keep(ORIGIN, kept())
    newest = max(folder.iterdir(), key=lambda path: path.name.split("-")[1])
    content = newest.read_bytes()
    newest.write_bytes(
        {
            "empty": b"",
            "truncated": content[:-1],
            "foreign": encode(bytes(32), kept()),
            "oversized": content + bytes(2**19),
            "noise": bytes(len(content)),
        }[damage]
    )
    assert store.take(ORIGIN) == kept(b"older")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_file_of_another_kind(folder: Path, store: SessionStore, tmp_path: Path, kind: str) -> None:
    """A link is not followed and a FIFO not waited for; both are removed."""
    store.keep(ORIGIN, kept())
    (file,) = folder.iterdir()
    target = tmp_path / "target"
    file.rename(target)
    if kind == "link":
        file.symlink_to(target)
    else:
        os.mkfifo(file, 0o600)
    assert store.take(ORIGIN) is None
    assert list(folder.iterdir()) == []
    assert target.exists()


def test_files_of_the_callers(folder: Path, store: SessionStore) -> None:
    """Files of other names are left alone; a folder of one of ours is passed over."""
    mine = folder / "notes"
    mine.write_text("mine")
    store.keep(ORIGIN, kept())
    (file,) = set(folder.iterdir()) - {mine}
    file.unlink()
    file.mkdir()
    assert store.take(ORIGIN) is None
    store.keep(ORIGIN, kept())
    assert store.take(ORIGIN) == kept()
    assert mine.read_text() == "mine"


def test_file_left_behind(folder: Path, store: SessionStore) -> None:
    """What a process that died was writing goes, what one is writing now stays."""
    names = [
        f"{DIGEST.hex()}-{int((time.time() - age) * 1e9):016x}-{FAR:016x}-{age:016x}.partial"
        for age in (3600, 0)
    ]
    for name in names:
        (folder / name).touch()
    store.keep(ORIGIN, kept())
    found = {path.name for path in folder.iterdir()}
    assert names[0] not in found
    assert names[1] in found
    assert store.take(ORIGIN) == kept()


def _take_in_children(folder: Path, count: int) -> list[bool]:
    """Make processes take at the same moment; return which of them got a session."""
    reader, writer = os.pipe()
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            status = 2
            try:
                os.close(writer)
                store = SessionStore(folder)
                os.read(reader, 1)  # ends for all of them at once
                status = int(store.take(ORIGIN) is not None)
            finally:
                os._exit(status)
        children.append(child)
    os.close(reader)
    os.close(writer)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(codes) <= {0, 1}
    return [code == 1 for code in codes]


def test_processes_that_want_the_same(folder: Path, store: SessionStore) -> None:
    """Of all who want one session exactly one gets it."""
    for sessions in (1, 1, 1, 3):
        for _ in range(sessions):
            store.keep(ORIGIN, kept())
        assert sum(_take_in_children(folder, 6)) == sessions
        assert store.take(ORIGIN) is None


# -- nothing breaks a connection


@pytest.mark.parametrize("call", ["open", "write", "rename", "fchmod", "listdir"])
def test_disk_that_fails(
    folder: Path,
    store: SessionStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    """A disk that is full, or worse, costs the session and a line in the log."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        store.keep(ORIGIN, kept())
    assert "session not kept" in caplog.text
    assert SECRET.decode() not in caplog.text
    assert len(list(folder.iterdir())) == (1 if call == "listdir" else 0)


def test_disk_that_takes_half(
    folder: Path, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be written as a whole is not there at all."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:50]))
    store.keep(ORIGIN, kept())
    assert list(folder.iterdir()) == []


def test_folder_opened_to_others_later(
    folder: Path, store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is no longer private is used no longer."""
    store.keep(ORIGIN, kept())
    folder.chmod(0o755)
    assert store.take(ORIGIN) is None
    store.keep(ORIGIN, kept())
    assert caplog.text.count("not private") == 2
    folder.chmod(0o700)
    assert store.take(ORIGIN) == kept()


def test_session_that_is_too_large(folder: Path, store: SessionStore) -> None:
    """No server needs that much."""
    store.keep(ORIGIN, kept(bytes(2**18)))
    assert list(folder.iterdir()) == []


def test_secret_in_no_text(store: SessionStore) -> None:
    """Nothing here shows a session."""
    store.keep(ORIGIN, kept())
    slot = store.slot(ORIGIN)
    for value in (slot, kept(), store):
        assert SECRET.decode() not in repr(value) + str(value)


# -- one connection's slot


def test_slot(store: SessionStore) -> None:
    """A slot takes what there is, and keeps what comes."""
    now = time.time()
    slot = store.slot(ORIGIN)
    assert slot.session is None
    slot.keep(Resumable(SECRET, now + 100, resumed=False))
    taken = store.take(ORIGIN)
    assert taken is not None
    assert taken.session == SECRET
    assert taken.expires == int(now + 100)
    assert abs(taken.renewable - now - RENEWABLE) < 60


def test_resumption_has_an_end(store: SessionStore) -> None:
    """What comes of resumed handshakes ends seven days after the full one."""
    now = int(time.time())
    for renewable, expected in ((now + 50, now + 50), (now + 500, now + 100), (now, None)):
        store.keep(ORIGIN, StoredSession(SECRET, now + 10, renewable))
        store.slot(ORIGIN).keep(Resumable(b"new", now + 100, resumed=True))
        taken = store.take(ORIGIN)
        assert (taken and taken.expires) == expected
        assert taken is None or taken.renewable == renewable


def test_full_handshake_in_spite_of_a_session(store: SessionStore) -> None:
    """A server that did not resume was verified anew."""
    now = int(time.time())
    store.keep(ORIGIN, StoredSession(SECRET, now + 10, now + 20))
    store.slot(ORIGIN).keep(Resumable(b"new", now + 100, resumed=False))
    taken = store.take(ORIGIN)
    assert taken is not None
    assert taken.expires == now + 100


def test_resumed_without_having_taken(store: SessionStore) -> None:
    """A session from elsewhere has no verification behind it that is known here."""
    store.slot(ORIGIN).keep(Resumable(b"new", FAR, resumed=True))
    assert store.take(ORIGIN) is None


def test_own_certificate(store: SessionStore, key_pair: KeyPair) -> None:
    """A session begun with a certificate is not used without it."""
    shown = Origin.of(replace(CONFIG, key_pair=key_pair), ADDRESS)
    store.keep(shown, kept())
    assert store.take(ORIGIN) is None
    assert store.take(shown) == kept()
