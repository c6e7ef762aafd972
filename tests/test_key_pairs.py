"""Tests of key_pairs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.certificates import DAY, certify, respond, save
from tlsify.errors import ConfigError
from tlsify.key_pairs import Files, amiss, find, fingerprint, with_ocsp

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

AUTHORITY = trustme.CA()
PAIR = certify(AUTHORITY, "example.org")
OTHER = certify(AUTHORITY, "example.org", kind="rsa")


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
    found = find(folder)
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
    (files,) = find(tmp_path / "live")
    assert files.name == "example.org"
    assert files.load().chain == PAIR.chain


def test_default(folder: Path) -> None:
    """One called so comes first."""
    save(PAIR, folder / "default.crt", folder / "default.key")
    assert [files.name for files in find(folder)] == ["default", "four", "one", "three", "two"]


def test_nothing_there(tmp_path: Path) -> None:
    """An empty folder, or none, is a mistake."""
    with pytest.raises(ConfigError, match="no certificate in"):
        find(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read certificates .*absent"):
        find(tmp_path / "absent")


def test_same_name_twice(folder: Path) -> None:
    """Two files that a response could belong to are one too many."""
    save(PAIR, folder / "one.crt", folder / "one.key")
    with pytest.raises(ConfigError, match="more than one certificate called one"):
        find(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("two.key", b"garbage", "no usable PEM private key"),
        ("two.pem", b"garbage", "no usable PEM certificate"),
        ("three.ocsp", b"garbage", "no OCSP response"),
        ("seven.pem", PAIR.certificate_pem(), r"cannot read private key .*seven\.key"),
        ("two.pem", OTHER.certificate_pem(), "does not belong"),
    ],
)
def test_one_bad_file(folder: Path, name: str, content: bytes, said: str) -> None:
    """Among many, the one that is unusable is named."""
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        [files.load() for files in find(folder)]
    assert name.partition(".")[0] in str(caught.value)
    assert caught.value.hint


def test_key_gone(folder: Path) -> None:
    """Half of what certbot makes is an error that says which half."""
    (folder / "four/privkey.pem").unlink()
    with pytest.raises(ConfigError, match=r"four/privkey\.pem"):
        [files.load() for files in find(folder)]


def test_who_may_read_it(folder: Path) -> None:
    """A key that everybody may read is told from one that a group may."""
    files, found = find(folder)[0], []
    for mode in (0o600, 0o640, 0o644):
        files.key.chmod(mode)
        found.append(files.open_to_all)
    assert found == [False, False, True]
    assert not Files("x", folder / "absent", folder / "absent").open_to_all


# -- what is amiss


def test_nothing_amiss() -> None:
    """A good certificate gives no occasion."""
    assert amiss(PAIR) == []


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [(-2 * DAY, -DAY, "certificate ended on"), (DAY, 2 * DAY, "certificate begins on")],
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
    assert "ended" in stale
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
