"""Another user's process, whose roster says what it likes. Only root can become somebody else."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tlsify.status import census, entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from tlsify.status.entries import Address, Entry

UID = 1001
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
LOT = 60_000_000  # bytes: what a stranger says who wants to be a burden


def here() -> int:
    """Return the number of this network namespace."""
    return Path("/proc/self/ns/net").stat().st_ino


def opening(connections: int, network: int | None = None) -> bytes:
    """Make the first line of an answer."""
    head = entries.Head(network or here(), connections)
    return f"{entries.write_head(head)}\n".encode()


def saying(told: Entry, **odd: object) -> Callable[[Address, Address], bytes]:
    """Make an answer of one row, of the stranger's connection, with some of its fields replaced."""

    def answer(local: Address, peer: Address) -> bytes:
        known = entries.row(told._replace(local=local, peer=peer))
        row = dict(zip(entries.FIELDS, known, strict=True)) | odd
        return opening(1) + json.dumps([list(row.values())]).encode()

    return answer


def as_stranger(work: Callable[[], None]) -> int:
    """Fork a child that does something as another user; return its PID.

    It cannot import anything any more: who knows whether that user may read Python's own modules?
    """
    codecs.lookup("charmap")  # he could not read what is looked up late
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(UID, UID, UID)
            os.setresuid(UID, UID, UID)
            work()
            status = 0
        except BaseException:  # it is shown, and the child must not go on
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def as_nobody(look: Callable[[], str]) -> str:
    """Run a function without privileges and without our descriptors; return its answer."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.closerange(3, writer)
            os.closerange(writer + 1, 1024)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writer, look().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        found = said.read()
    os.waitpid(child, 0)
    return found


@contextlib.contextmanager
def stranger(
    answer: bytes | Callable[[Address, Address], bytes] | None, sockets: int = 1
) -> Iterator[tuple[Address, Address, IO[bytes]]]:
    """Fork a process of another user's that answers each connection with the same bytes.

    Args:
        answer: to be said, or what makes it of the addresses; None to accept nobody.
        sockets: on how many.

    Yields:
        The addresses of a connection that is that user's, and the lines in which the process
        tells how many bytes of each answer it got rid of.
    """
    folder = Path(tempfile.mkdtemp(prefix="tlsify-"))
    folder.chmod(0o711)
    (folder / "roster").mkdir(0o700)
    os.chown(folder / "roster", UID, UID)
    reader, writer = os.pipe()
    pid = as_stranger(lambda: _answer_all(folder / "roster", answer, sockets, writer))
    os.close(writer)
    with pytest.MonkeyPatch.context() as patch, os.fdopen(reader, "rb") as told:
        patch.setenv(census.VARIABLE, str(folder / "roster"))
        try:
            ports = list(map(int, told.readline().split()))
            yield ("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]), told
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            shutil.rmtree(folder)


def _answer_all(
    folder: Path,
    answer: bytes | Callable[[Address, Address], bytes] | None,
    count: int,
    writer: int,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        kept = server.accept()[0]
        if callable(answer):
            answer = answer(client.getsockname(), server.getsockname())
        selector = selectors.DefaultSelector()
        listeners = []
        for number in range(count):
            listeners.append(socket.socket(socket.AF_UNIX))
            listeners[-1].bind(f"{folder}/{number:05}-stranger")
            listeners[-1].listen(8)
            if answer is not None:
                selector.register(listeners[-1], selectors.EVENT_READ)
        os.write(writer, f"{client.getsockname()[1]} {server.getsockname()[1]}\n".encode())
        while kept:
            for key, _ in selector.select():
                listener = key.fileobj
                assert isinstance(listener, socket.socket)
                with listener.accept()[0] as asking:
                    sent = 0
                    with contextlib.suppress(OSError):
                        while sent < len(answer or b""):
                            sent += asking.send(memoryview(answer or b"")[sent : sent + 2**20])
                os.write(writer, f"{sent}\n".encode())
