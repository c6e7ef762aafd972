"""Tests of beneath."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles import check_descriptors, descriptors
from tlsify.static.beneath import open_beneath, open_folder_beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder, and what is beside it; nothing may stay open."""
    folder = tmp_path.resolve() / "root"
    (folder / "a/b").mkdir(parents=True)
    (folder / "file").write_text("file")
    (folder / "a/b/deep").write_text("deep")
    (tmp_path / "secret").write_text("SECRET")
    before = descriptors()
    yield folder
    check_descriptors(before)


def read(root: Path, path: str) -> str:
    """Open and read."""
    opened = open_beneath(os.fsencode(root), os.fsencode(path).split(b"/"))
    with os.fdopen(opened.descriptor) as file:
        assert opened.status.st_ino == os.fstat(file.fileno()).st_ino
        assert not os.get_inheritable(file.fileno())
        return file.read()


def code(root: Path, path: str) -> int | None:
    """Return the error code of an attempt."""
    with pytest.raises(OSError, match=r".") as caught:
        read(root, path)
    return caught.value.errno


def test_files(root: Path) -> None:
    """Files are opened, however deep; folders are told from what is not there."""
    assert read(root, "file") == "file"
    assert read(root, "a/b/deep") == "deep"
    assert code(root, "a/b") == errno.EISDIR
    assert code(root, "a/c") == code(root, "c/b") == errno.ENOENT
    assert code(root, "file/x") == errno.EINVAL
    assert code(root, "x" * 300) == errno.ENAMETOOLONG
    with pytest.raises(IsADirectoryError):
        open_beneath(os.fsencode(root), [])


@pytest.mark.parametrize(
    ("link", "target", "path", "content"),
    [
        ("link", "file", "link", "file"),
        ("link", "./a/../file", "link", "file"),
        ("link", "a//b/", "link/deep", "deep"),
        ("a/link", "../file", "a/link", "file"),
        ("a/b/link", "../../a/b/deep", "a/b/link", "deep"),
        ("link", ".", "link/link/file", "file"),
        ("link", "{root}/file", "link", "file"),
        ("a/link", "{root}/a/b", "a/link/deep", "deep"),
        ("link", "{root}/a/../file", "link", "file"),
    ],
)
def test_links_inside(root: Path, link: str, target: str, path: str, content: str) -> None:
    """They lead to what they name, as if the folder were all that there is."""
    (root / link).symlink_to(target.format(root=root))
    assert read(root, path) == content


def test_dots_behind_a_link(root: Path) -> None:
    """They go up from where the link leads, and not from where it stands."""
    (root / "deep").symlink_to("a/b")
    (root / "link").symlink_to("deep/../b/deep")
    assert read(root, "link") == "deep"


def test_links_by_another_path_of_the_folder(root: Path) -> None:
    """They lead into it, too, if that path is known."""
    alias = root.parent / "alias"
    alias.symlink_to(root)
    (root / "link").symlink_to(alias / "a/b/deep")
    assert code(root, "link") == errno.ENOENT
    opened = open_beneath(os.fsencode(root), [b"link"], os.fsencode(alias))
    with os.fdopen(opened.descriptor) as file:
        assert file.read() == "deep"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("../secret", "link"),
        ("..", "link/secret"),
        ("../root/file", "link"),
        ("a/../../secret", "link"),
        ("{root}/../secret", "link"),
        ("{root}-sibling", "link"),
        ("/", "link/etc/passwd"),
        ("/proc/self/cwd", "link/x"),
        ("/proc/self/root/etc/passwd", "link"),
    ],
)
def test_links_outside(root: Path, target: str, path: str) -> None:
    """They are not found, whether something is there or not."""
    (root / "link").symlink_to(target.format(root=root))
    assert code(root, path) == errno.ENOENT


def test_folders_outside(root: Path) -> None:
    """A folder is opened to be read by the same rules as a file."""
    (root / "out").symlink_to(root.parent)
    (root / "in").symlink_to(root)
    for names in ([], [b"in"], [b"in", b"in"]):
        descriptor = open_folder_beneath(os.fsencode(root), names)
        assert os.path.samestat(os.fstat(descriptor), root.stat())
        assert "out" in os.listdir(descriptor)
        os.close(descriptor)
    for name in (b"out", b"none"):
        with pytest.raises(FileNotFoundError):
            open_folder_beneath(os.fsencode(root), [name])


def test_links_to_links(root: Path) -> None:
    """A chain of them is followed; a circle ends."""
    for number in range(38):
        (root / f"{number}").symlink_to(f"a/b/../../{number + 1}")
    (root / "38").symlink_to("file")
    assert read(root, "0") == (root / "0").read_text() == "file"
    (root / "circle").symlink_to("a/../circle")
    assert code(root, "circle") == code(root, "circle/x") == errno.ELOOP


def test_the_root_of_all(root: Path) -> None:
    """The folder may be "/", beneath which everything is."""
    (root / "link").symlink_to(root / "file")
    names = os.fsencode(root / "link").split(b"/")[1:]
    os.close(open_beneath(b"/", names).descriptor)


def test_other_kinds(root: Path) -> None:
    """Neither FIFOs nor sockets nor devices are opened: nobody waits, and no writer is woken."""
    os.mkfifo(root / "fifo")
    (root / "null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        assert [code(root, name) for name in ("fifo", "socket", "null")] == [errno.ENOENT] * 3
    with pytest.raises(OSError, match="No such device"):  # nobody reads it
        os.open(root / "fifo", os.O_WRONLY | os.O_NONBLOCK)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("take_its_place", "expected"),
    [
        (lambda path: path.symlink_to(path.parent.parent / "secret"), errno.ELOOP),
        (_fifo, errno.ENOENT),
        (lambda path: path.mkdir(), errno.EISDIR),
        (str, errno.ENOENT),
    ],
    ids=["link", "fifo", "folder", "nothing"],
)
def test_swapped_before_it_is_opened(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    take_its_place: Callable[[Path], object],
    expected: int,
) -> None:
    """What is opened is judged again."""
    real = os.stat

    def swapping(name: Any, **options: Any) -> os.stat_result:
        status = real(name, **options)
        if name == b"file":
            (root / "file").unlink()
            take_its_place(root / "file")
        return status

    monkeypatch.setattr(os, "stat", swapping)
    found = code(root, "file")
    monkeypatch.undo()
    assert found == expected


def test_folder_swapped_under_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that has become a link to the outside is not left again by its name."""
    (root.parent / "outside/b").mkdir(parents=True)
    (root.parent / "outside/b/deep").write_text("SECRET")
    real = os.open

    def swapping(name: Any, *words: Any, **options: Any) -> int:
        descriptor = real(name, *words, **options)
        if name == b"a":
            (root / "a").rename(root / "moved")
            (root / "a").symlink_to(root.parent / "outside")
        return descriptor

    monkeypatch.setattr(os, "open", swapping)
    content = read(root, "a/b/deep")
    monkeypatch.undo()
    assert content == "deep"
    assert code(root, "a/b/deep") == errno.ENOENT


def test_swapped_again_and_again(root: Path) -> None:
    """Whatever somebody does meanwhile, nothing of the outside is read, and nothing waits."""
    kinds: tuple[Callable[[Path], object], ...] = (
        lambda path: path.symlink_to(root.parent / "secret"),
        lambda path: path.symlink_to("a/b/deep"),
        lambda path: path.write_text("file"),
        _fifo,
    )
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for make in kinds:
                make(root / "new")
                (root / "new").rename(root / "file")

    swapper = threading.Thread(target=swap)
    swapper.start()
    found: set[object] = set()
    try:
        for _ in range(500):
            try:
                found.add(read(root, "file"))
            except OSError as exc:
                found.add(exc.errno)
    finally:
        done.set()
        swapper.join()
    assert found <= {"file", "deep", "", errno.ENOENT, errno.ELOOP, errno.EINVAL}


def test_without_permission() -> None:
    """Folders need not be readable; what is closed to us is told from what is not there."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/deep").write_text("deep")
        (root / "file").touch()
        root.chmod(0o711)
        (root / "a").chmod(0o711)
        (root / "file").chmod(0)
        with _as_nobody():
            assert read(root, "a/b/deep") == "deep"
            assert code(root, "a") == errno.EISDIR
            assert code(root, "file") == errno.EACCES
        (root / "a").chmod(0o600)
        with _as_nobody():
            assert code(root, "a/b/deep") == errno.EACCES
        (root / "a").chmod(0o700)


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
