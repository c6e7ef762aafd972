"""Tests of session_writer: the thread that writes sessions, while others carry connections."""

from __future__ import annotations

import os
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.connection.setup.test_session_store import FAR, ORIGIN
from tests.doubles import until
from tests.want import Want
from tlsify.connection.setup import session_store, session_writer
from tlsify.connection.setup.session_store import SessionStore
from tlsify.tls.negotiated import Resumable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def is_idle() -> bool:
    """Return whether all jobs are done."""
    return not session_writer._writer._is_running


@pytest.fixture
def disk() -> Iterator[threading.Event]:
    """A slow disk, until it is set; nothing is under way before or afterwards."""
    until(is_idle)
    event = threading.Event()
    yield event
    event.set()
    until(is_idle)


def test_in_the_background_in_order(disk: threading.Event) -> None:
    """The caller does not wait for the disk; what it has left is done one after the other."""
    done: list[int] = []
    session_writer.write("", disk.wait)
    for number in range(3):
        session_writer.write("", partial(done.append, number))
    assert not is_idle()
    assert not done
    disk.set()
    until(is_idle)
    assert done == [0, 1, 2]


def test_waiting_for_a_subject(disk: threading.Event) -> None:
    """Its jobs are done before others, and nobody waits for those."""
    done: list[str] = []
    begun, goes_on = threading.Event(), threading.Event()

    def begin() -> None:
        begun.set()
        goes_on.wait()

    session_writer.write("first", begin)
    assert begun.wait(60)
    session_writer.write("other", disk.wait)
    session_writer.write("own", partial(done.append, "own"))
    session_writer.wait_for("none", 60)
    session_writer.wait_for("own", 0)
    assert not done
    goes_on.set()
    session_writer.wait_for("own", 60)
    assert done == ["own"]
    assert not is_idle()


def test_too_many(disk: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is stuck costs sessions, and no memory."""
    monkeypatch.setattr(session_writer, "_MOST", 2)
    done: list[int] = []
    begun = threading.Event()

    def begin() -> None:
        begun.set()
        disk.wait()

    session_writer.write("", begin)
    assert begun.wait(60)
    for number in range(5):
        session_writer.write("", partial(done.append, number))
    disk.set()
    until(is_idle)
    assert done == [0, 1]


def test_no_thread(disk: threading.Event) -> None:
    """Where there is none, as at the interpreter's end, the caller does it."""
    done: list[int] = []
    disk.set()
    with Want("thread", 0):
        session_writer.write("", lambda: done.append(threading.get_ident()))
    assert done == [threading.get_ident()]


def test_store_on_a_slow_disk(
    disk: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay's thread keeps a session without waiting for the store."""
    monkeypatch.setattr(session_store, "_write_file", lambda *_: disk.wait())
    slot = SessionStore(tmp_path / "store").slot(ORIGIN)
    slot.keep(Resumable(b"session", FAR, resumed=False))
    assert not is_idle()


def test_forked_child(disk: threading.Event) -> None:
    """It has its parent's jobs neither to do nor to wait for."""
    session_writer.write("", disk.wait)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
        pid = os.fork()
    if not pid:
        os._exit(not is_idle())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
