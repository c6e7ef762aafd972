"""Tests of index: what is remembered of a folder, and what becomes of it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doubles import Endpoint
from tlsify.credentials.pem import read_pem
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError
from tlsify.tls.certificates import name_hashes
from tlsify.trust import index as module
from tlsify.trust.index import Cache, Index, default_cache, survey

if TYPE_CHECKING:
    from collections.abc import Callable

PEMS = [make_key_pair([f"{number}.example"]).certificate_pem() for number in range(4)]
# The same name as the first, with another key.
TWIN = make_key_pair(["0.example"]).certificate_pem()


def hash_of(pem: bytes) -> str:
    """Return the name of the link that OpenSSL looks for, without its number."""
    (number,) = name_hashes(read_pem(pem, "it")).values()
    return f"{number:08x}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with two anchors, and other things."""
    folder = tmp_path / "anchors"
    folder.mkdir()
    (folder / "a.pem").write_bytes(PEMS[0])
    (folder / "b.crt").write_bytes(PEMS[1])
    (folder / "README").write_text("not a certificate")
    (folder / "sub").mkdir()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the cache is to be."""
    return tmp_path / "cache"


def index(root: Path, source: Path) -> Index:
    """Do what a start does."""
    return Cache(root).index(source, survey(source))


def links(found: Index) -> dict[str, str]:
    """List an index: names of links, and of the files that they lead to."""
    inside = {path.name: path for path in found.folder.iterdir()}
    assert inside.pop("lock").stat().st_size == 0
    return {name: path.readlink().name for name, path in inside.items()}


def indexes(root: Path) -> set[Path]:
    """List what there is in a cache."""
    return {path for path in root.iterdir() if path.is_dir() and not path.is_symlink()}


# -- what is in an index


def test_links_of_a_folder(root: Path, source: Path) -> None:
    """Each certificate is found by its subject, in the folder's own file."""
    found = index(root, source)
    assert links(found) == {f"{hash_of(PEMS[0])}.0": "a.pem", f"{hash_of(PEMS[1])}.0": "b.crt"}
    for path in found.folder.glob("*.0"):
        assert path.resolve().parent == source
    assert found.folder.stat().st_mode & 0o777 == 0o700
    assert root.stat().st_mode & 0o777 == 0o700


def test_several_of_one_name(root: Path, source: Path) -> None:
    """Certificates of one name are numbered, so that OpenSSL reads them all."""
    (source / "c.pem").write_bytes(TWIN)
    found = {name: file for name, file in links(index(root, source)).items() if name[-1] in "01"}
    assert {found[f"{hash_of(TWIN)}.0"], found[f"{hash_of(TWIN)}.1"]} == {"a.pem", "c.pem"}


def test_bundle_of_what_is_there_already(root: Path, source: Path) -> None:
    """A bundle that says nothing new is not read, as it would be each time."""
    before = links(index(root, source))
    (source / "all.pem").write_bytes(PEMS[0] + PEMS[1])
    assert links(index(root, source)) == before


def test_file_with_several(root: Path, source: Path) -> None:
    """A file is linked under each name that only it has."""
    (source / "all.pem").write_bytes(PEMS[0] + PEMS[2] + PEMS[3])
    found = links(index(root, source))
    assert found[f"{hash_of(PEMS[2])}.0"] == found[f"{hash_of(PEMS[3])}.0"] == "all.pem"
    assert found[f"{hash_of(PEMS[0])}.0"] == "a.pem"


def test_what_a_file_brings_along_is_complete(root: Path, source: Path) -> None:
    """OpenSSL never looks for a name that it has a certificate of: its twin has to come as well."""
    (source / "c.pem").write_bytes(TWIN + PEMS[2])
    found = links(index(root, source))
    third = hash_of(PEMS[2])
    assert found[f"{third}.0"] == "c.pem"
    assert found[f"{third}.1"] == "a.pem"


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from([*PEMS, TWIN]), min_size=1, max_size=3), min_size=1))
def test_any_folder(files: list[list[bytes]]) -> None:
    """Whatever OpenSSL looks for first, it ends up with all certificates of each name it has."""
    contents = {f"{number}.pem": b"".join(pems) for number, pems in enumerate(files)}
    held = {name: name_hashes(read_pem(pem, "it")) for name, pem in contents.items()}
    wanted: dict[int, set[str]] = {}
    for hashes in held.values():
        for digest, number in hashes.items():
            wanted.setdefault(number, set()).add(digest)
    made = module.choose(held)
    assert made.keys() == wanted.keys()
    for names in made.values():
        read = {digest: number for name in names for digest, number in held[name].items()}
        for number in set(read.values()):
            assert wanted[number] <= read.keys()


def test_folder_in_which_everything_hangs_together(root: Path, source: Path) -> None:
    """Where an index would be larger than what it saves there is none."""
    twins = [make_key_pair(["0.example"]).certificate_pem() for _ in range(24)]
    for number, twin in enumerate(twins):
        own = make_key_pair([f"own{number}.example"]).certificate_pem()
        (source / f"{number}.pem").write_bytes(twin + own)
    with pytest.raises(OSError, match="too many files share names"):
        index(root, source)


# -- when it is made anew


def test_second_start_reads_nothing(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nothing changes no file is opened again."""
    first = index(root, source)
    monkeypatch.setattr(module, "read_files", None)
    assert index(root, source).folder == first.folder


def _add(source: Path) -> None:
    (source / "c.pem").write_bytes(PEMS[2])


def _remove(source: Path) -> None:
    (source / "a.pem").unlink()


def _rename(source: Path) -> None:
    (source / "a.pem").rename(source / "z.pem")


def _overwrite(source: Path) -> None:
    before = (source / "a.pem").stat()
    content = PEMS[2].ljust(before.st_size)[: max(before.st_size, len(PEMS[2]))]
    while (source / "a.pem").stat().st_ctime_ns == before.st_ctime_ns:
        (source / "a.pem").write_bytes(content)
        os.utime(source / "a.pem", ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(source: Path) -> None:
    (source / "new").write_bytes(PEMS[2])
    (source / "new").replace(source / "a.pem")


def _point_elsewhere(source: Path) -> None:
    (source / "elsewhere").write_bytes(PEMS[2])
    (source / "a.pem").unlink()
    (source / "a.pem").symlink_to("elsewhere")


@pytest.mark.parametrize("change", [_add, _remove, _rename, _overwrite, _replace, _point_elsewhere])
def test_every_change_is_noticed(root: Path, source: Path, change: Callable[[Path], None]) -> None:
    """Added, removed, renamed, written over with the old time put back: all make a new index."""
    before = index(root, source)
    change(source)
    after = index(root, source)
    assert after.folder != before.folder
    assert set(links(after).values()) == {
        path.name for path in source.iterdir() if path.suffix in {".pem", ".crt"}
    }
    expected = {hash_of(path.read_bytes()) for path in source.glob("*.[pc][er][mt]")}
    assert {name.partition(".")[0] for name in links(after)} == expected


def test_change_behind_a_link(root: Path, source: Path, tmp_path: Path) -> None:
    """A file that is only linked into the folder counts as if it were in it."""
    (tmp_path / "far").write_bytes(PEMS[2])
    (source / "c.pem").symlink_to(tmp_path / "far")
    index(root, source)
    (tmp_path / "new").write_bytes(PEMS[3])
    (tmp_path / "new").replace(tmp_path / "far")
    assert f"{hash_of(PEMS[3])}.0" in links(index(root, source))


def _lose_a_link(folder: Path) -> None:
    next(folder.glob("*.0")).unlink()


def _redirect_a_link(folder: Path) -> None:
    link = next(folder.glob("*.0"))
    link.unlink()
    link.symlink_to("/etc/passwd")


def _add_a_link(folder: Path) -> None:
    (folder / "00000000.0").symlink_to("/etc/passwd")


def _open_it_to_others(folder: Path) -> None:
    folder.chmod(0o777)
    folder.chmod(0o700)


def _lose_the_lock(folder: Path) -> None:
    (folder / "lock").unlink()


def _lose_the_folder(folder: Path) -> None:
    folder.rename(folder.with_name("lost"))


def _lose_the_pointer(folder: Path) -> None:
    folder.with_name(folder.name.partition(".")[0]).unlink()


def _garble_the_pointer(folder: Path) -> None:
    pointer = folder.with_name(folder.name.partition(".")[0])
    pointer.unlink()
    pointer.symlink_to("garbage")


def _replace_the_pointer(folder: Path) -> None:
    pointer = folder.with_name(folder.name.partition(".")[0])
    pointer.unlink()
    pointer.write_bytes(b"no link")


@pytest.mark.parametrize(
    "damage",
    [
        _lose_a_link,
        _redirect_a_link,
        _add_a_link,
        _open_it_to_others,
        _lose_the_lock,
        _lose_the_folder,
        _lose_the_pointer,
        _garble_the_pointer,
        _replace_the_pointer,
    ],
)
def test_damaged_index(root: Path, source: Path, damage: Callable[[Path], None]) -> None:
    """Whatever is done to an index shows, and it is made anew."""
    before = index(root, source)
    ctime = before.folder.stat().st_ctime_ns
    expected = links(before)
    while before.folder.exists() and before.folder.stat().st_ctime_ns == ctime:
        os.utime(before.folder)  # until the clock that files are stamped by has moved on
    before = index(root, source)
    damage(before.folder)
    after = index(root, source)
    assert after.folder != before.folder
    assert links(after) == expected
    assert index(root, source).folder == after.folder


# -- a folder that cannot be used


@pytest.mark.parametrize("content", [b"", b"garbage", PEMS[0][:-50], PEMS[0] + PEMS[1][:-50]])
def test_broken_file(root: Path, source: Path, content: bytes) -> None:
    """It is named, at every start, and no index of such a folder is kept."""
    index(root, source)
    (source / "c.pem").write_bytes(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"c\.pem holds (no usable|a) PEM certificate"):
            index(root, source)
    (source / "c.pem").unlink()
    index(root, source)


def test_link_to_nowhere(source: Path) -> None:
    """What cannot be read is named."""
    (source / "c.pem").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"cannot read trust anchor .*c\.pem: ENOENT: No such"):
        survey(source)


def test_what_is_no_file(source: Path) -> None:
    """Neither folders nor FIFOs, which nobody may ever write to, are read."""
    os.mkfifo(source / "c.pem")
    with pytest.raises(ConfigError, match=r"c\.pem is not a file"):
        survey(source)


def test_folder_without_anchors(tmp_path: Path) -> None:
    """Nothing to trust is a mistake; names that are all suffix do not count."""
    (tmp_path / ".pem").write_bytes(PEMS[0])
    with pytest.raises(ConfigError, match="no trust anchor in"):
        survey(tmp_path)


# -- a cache that cannot be used


def test_cache_of_somebody_else(root: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of another user's is not believed."""
    root.mkdir(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="not a private folder"):
        index(root, source)


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_cache_that_others_can_see(root: Path, source: Path, mode: int) -> None:
    """Nor is one that others may look at or write to."""
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(PermissionError, match="not a private folder"):
        index(root, source)


def test_cache_that_is_a_link(root: Path, source: Path, tmp_path: Path) -> None:
    """Nor one that is somewhere else."""
    (tmp_path / "real").mkdir(0o700)
    root.symlink_to(tmp_path / "real")
    with pytest.raises(NotADirectoryError):
        index(root, source)


def test_cache_with_a_colon_in_its_name(source: Path, tmp_path: Path) -> None:
    """OpenSSL would take its name apart."""
    with pytest.raises(OSError, match="colon"):
        index(tmp_path / "a:b", source)


def test_cache_on_a_full_disk(root: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an index is none, and leaves nothing behind."""
    made = os.symlink

    def symlink(target: str, name: str, *, dir_fd: int | None = None) -> None:
        if str(name).endswith(".0") and str(target).endswith("b.crt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made(target, name, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", symlink)
        with pytest.raises(OSError, match="No space left"):
            index(root, source)
    assert list(root.iterdir()) == []
    assert len(links(index(root, source))) == 2


def test_pointer_that_cannot_be_written(root: Path, source: Path) -> None:
    """An index that nothing points to is none either."""
    first = index(root, source)
    pointer = first.folder.with_name(first.folder.name.partition(".")[0])
    pointer.unlink()
    pointer.mkdir()
    (pointer / "full").touch()
    with pytest.raises(OSError, match=r"."):
        index(root, source)
    assert indexes(root) == {first.folder, pointer}


# -- others at the same time


def test_index_in_use_stays(root: Path, source: Path) -> None:
    """Who has one keeps it, however often the folder changes; afterwards it goes."""
    first = index(root, source)
    _add(source)
    second = index(root, source)
    assert links(first)
    folder = first.folder
    del first
    _remove(source)
    third = index(root, source)
    assert not folder.exists()
    assert indexes(root) == {second.folder, third.folder}


def test_index_in_use_by_another_process(root: Path, source: Path) -> None:
    """The same holds between processes, until they end in whatever way."""
    program = (
        "import sys; from pathlib import Path; from tlsify.trust.index import Cache, survey;"
        "it = Path(sys.argv[2]); found = Cache(Path(sys.argv[1])).index(it, survey(it));"
        "print(found.folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(root), str(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().decode().strip())
        _add(source)
        index(root, source)
        assert folder.exists()
        other.kill()
        other.wait()
    _remove(source)
    index(root, source)
    assert not folder.exists()


def test_starts_that_race(root: Path, source: Path) -> None:
    """Any number of starts at once all get an index that holds everything."""
    for _ in range(5):
        _add(source)
        runs = [Endpoint(lambda: index(root, source)) for _ in range(6)]
        found = [run.result() for run in runs]
        assert [len(links(one)) for one in found] == [3] * 6
        (source / "c.pem").unlink()
        assert len(links(index(root, source))) == 2
        del found, runs


def test_index_that_is_being_removed(root: Path, source: Path) -> None:
    """Who comes while an index is removed makes another."""
    first = index(root, source)
    folder = first.folder
    del first
    lock = os.open(folder / "lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert index(root, source).folder != folder
    finally:
        os.close(lock)


def test_what_crashed_starts_leave_behind(root: Path, source: Path) -> None:
    """It is removed, unless it may still be somebody's work."""
    first = index(root, source)
    crashed = [first.folder.with_name(f"{'0' * 32}.{number:016x}") for number in range(4)]
    for folder in crashed[:3]:
        folder.mkdir(0o700)
        (folder / "00000000.0").symlink_to("nowhere")
    (crashed[0] / "lock").touch()
    for number in (2, 3):
        (root / f"{crashed[number].name}.new").symlink_to("half")
    long_ago = time.time() - 3600
    os.utime(crashed[1], (long_ago, long_ago))
    os.utime(root / f"{crashed[3].name}.new", (long_ago, long_ago), follow_symlinks=False)
    (root / "something else").touch()
    _add(source)
    index(root, source)
    assert not crashed[0].exists()
    assert not crashed[1].exists()
    assert crashed[2].exists()
    assert (root / f"{crashed[2].name}.new").is_symlink()
    assert not (root / f"{crashed[3].name}.new").is_symlink()
    assert (root / "something else").exists()


def test_many_folders(
    root: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many are remembered; those indexed least recently are forgotten."""
    monkeypatch.setattr(module, "SOURCES", 2)
    oldest = index(root, source).folder
    pointer = root / oldest.name.partition(".")[0]
    os.utime(pointer, (1, 1), follow_symlinks=False)
    for number in range(2):
        other = tmp_path / str(number)
        other.mkdir()
        (other / "a.pem").write_bytes(PEMS[number])
        index(root, other)
    assert not oldest.exists()
    assert not pointer.is_symlink()
    assert len(indexes(root)) == 2


def test_no_descriptor_is_left(root: Path, source: Path) -> None:
    """An index holds one, close-on-exec, for as long as it lives."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = index(root, source)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    assert not os.get_inheritable(found._lock)
    del found
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# -- the caller's own cache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the caller's, without a cache."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir(0o755)
    return tmp_path / "home"


def test_cache_in_the_home(home: Path, source: Path) -> None:
    """It is made on the way, for nobody else."""
    folder = default_cache()
    assert folder == home / ".cache/tlsify/trust"
    index(folder, source)
    for made in (home / ".cache", home / ".cache/tlsify", folder):
        assert made.stat().st_mode & 0o777 == 0o700


def test_cache_where_the_environment_says(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_CACHE_HOME counts, unless it is relative, as its specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg/tlsify/trust"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == home / ".cache/tlsify/trust"


@pytest.mark.parametrize("value", [None, "", "/nonexistent"])
def test_nobody_home(home: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Without a home there is no cache."""
    assert home.exists()
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    with pytest.raises(FileNotFoundError):
        default_cache()


def test_home_of_somebody_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's HOME may outlive sudo: a superuser must neither trust it nor litter it."""
    other = os.getuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(PermissionError):
        default_cache()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("where", ["", ".cache", ".cache/tlsify"])
def test_home_that_others_may_write_to(home: Path, where: str) -> None:
    """Who can write to a folder on the way can put another one in its place."""
    (home / ".cache/tlsify").mkdir(parents=True)
    (home / where).chmod(0o777)
    with pytest.raises(PermissionError):
        default_cache()


@pytest.mark.parametrize("name", ["geteuid", "getegid"])
def test_setuid(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A program that runs with other rights than its caller's does not believe its environment."""
    assert home.exists()
    monkeypatch.setattr(os, name, lambda: 12345)
    with pytest.raises(PermissionError, match="another user's rights"):
        default_cache()
