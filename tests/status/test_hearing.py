"""Tests of hearing."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.doubles import check_descriptors, descriptors
from tests.status.test_entries import ENTRY, with_field
from tests.strangers import here, opening
from tlsify.status import entries, hearing
from tlsify.status.hearing import Heard, Roster, Share, hear

if TYPE_CHECKING:
    from collections.abc import Iterator

ME = os.geteuid()


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = descriptors()
    yield
    check_descriptors(before)


def lines(*told: entries.Entry) -> bytes:
    """Make rows."""
    return next(entries.lines(told)).encode()


def said(
    *answers: bytes,
    share: Share | None = None,
    patience: float = 60,
    work: float = 60,
    uid: int = ME,
) -> Heard:
    """Hear what some processes say, and then hang up."""
    shares = {uid: share or Share(10_000)}
    with ExitStack() as stack:
        asked = {}
        for answer in answers:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            ours.setblocking(False)
            asked[stack.enter_context(ours)] = uid

            def talk(theirs: socket.socket = theirs, answer: bytes = answer) -> None:
                try:
                    theirs.sendall(answer)
                    theirs.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # heard no further

            thread = threading.Thread(target=talk)
            thread.start()
            stack.callback(thread.join)
            stack.callback(ours.shutdown, socket.SHUT_RDWR)
        return hear(asked, shares, patience, work)


# -- answers


def test_answer() -> None:
    """Who answers is known by the kernel, what he says by his word."""
    whole = opening(3) + lines(ENTRY, ENTRY) + b"\n" + lines(ENTRY) + b"\n[]"
    heard = said(whole, opening(0) + b"[]")
    me = Roster(os.getpid(), ME, ())
    assert heard == Heard([me._replace(entries=(ENTRY,) * 3), me], 0, 0, set())


def test_byte_by_byte() -> None:
    """However it is cut up, it is the same answer."""
    answer, ended = hearing._Answer(ME, Share(10_000), here()), []
    for byte in opening(1) + lines(ENTRY):
        answer.take(bytes([byte]))
        ended.append(answer.is_over)
    answer.take(b"")
    assert (any(ended), answer.is_over, answer.entries) == (False, True, [ENTRY])


def test_other_namespace() -> None:
    """Of what is in another network namespace not a row is read; idle processes do not count."""
    busy, idle = opening(10, here() + 1) + b"whatever\n" * 1000, opening(0, here() + 1) + b"[]"
    assert said(busy, idle, b"\n") == Heard([Roster(os.getpid(), ME, ())], 1, 1, set())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"\xff",
        b"[]",
        b"{}",
        opening(1),
        opening(1) + b"[]",
        opening(1)[:-1],
        opening(0) + b"[]\n[]\n[" + b"[" * 100_000,
        opening(0) + lines(ENTRY),
        opening(1) + b"[]\n{}\n",
        opening(1) + lines(ENTRY) + b"\n\n",
        opening(1) + lines(ENTRY)[:-1],
        opening(1) + b" " * (entries.LONGEST_LINE + 1) + b"\n[]",
        opening(1) + b" " * 2 * entries.LONGEST_LINE,
        opening(17) + json.dumps([[]] * 17).encode(),
        b"[" * 100_000,
    ],
)
def test_odd_answers(answer: bytes) -> None:
    """Whatever else somebody says is counted, and not believed; others are."""
    heard = said(answer, opening(1) + lines(ENTRY))
    assert [each.entries for each in heard.rosters] == [(ENTRY,)]
    assert (heard.silent, heard.elsewhere) == (1, 0)


def test_odd_rows() -> None:
    """A row that is none is left out, which is said; the others are as good as any."""
    rows = [entries.row(ENTRY), with_field("age", -1), with_field("resumed", 1)]
    heard = said(opening(3) + json.dumps(rows).encode())
    assert [each.entries for each in heard.rosters] == [(ENTRY,)]
    assert (heard.silent, heard.cut) == (0, {ME})


# -- limits


def test_too_many_rows() -> None:
    """What is more than a share is left out, which is said."""
    heard = said(opening(10) + (lines(ENTRY) + b"\n") * 10, share=Share(4))
    assert [len(each.entries) for each in heard.rosters] == [4]
    assert (heard.silent, heard.cut) == (0, {ME})


def test_share_of_all_processes() -> None:
    """It does not grow with the number of one's processes."""
    heard = said(*[opening(4) + lines(*[ENTRY] * 4)] * 3, share=Share(9))
    assert sorted(len(each.entries) for each in heard.rosters) == [0, 4, 4]
    assert heard.cut == {ME}


@pytest.mark.parametrize("piece", [b"[]\n", b"\n", b" ", opening(1)])
def test_too_many_bytes(piece: bytes) -> None:
    """Lines without rows, blanks and heads count, too."""
    share = Share(100)
    heard = said(opening(0) + piece * (10**7 // len(piece)), share=share)
    assert heard.silent + len(heard.cut) == 1
    assert share._bytes > -(2**16)


def test_a_byte_at_a_time() -> None:
    """Each piece costs as much as some hundred bytes, or a burden would come in many small ones."""
    answer = hearing._Answer(ME, Share(1), here())
    for _ in range(3):
        answer.take(b" ")
    assert answer.is_cut


def test_connections_of_others() -> None:
    """What somebody says of connections that are not his does not even count as said."""
    owners = {(("192.0.2.1", 443), ("192.0.2.7", 50000)): ME}
    broken = ENTRY._replace(local=None)
    elsewhere = ENTRY._replace(local=("192.0.2.1", 444))
    answer = opening(3) + lines(broken, elsewhere, ENTRY)
    (found,) = said(answer, share=Share(100, owners)).rosters
    assert found.entries == (ENTRY,)
    (found,) = said(answer, share=Share(100, dict.fromkeys(owners, ME + 1))).rosters
    assert found.entries == ()


def test_whose_socket_it_is() -> None:
    """Who listens in a folder has to be who owns it."""
    heard = said(opening(1) + lines(ENTRY), uid=ME + 1)
    assert heard == Heard([], 1, 0, set())


def test_who_is_stuck() -> None:
    """Who says nothing, or not all of it, is not waited for any longer than for all of them."""
    with ExitStack() as stack:
        asked = {}
        for answer in (b"", opening(1), opening(0) + b"[]"):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            ours.setblocking(False)
            asked[ours] = ME
            theirs.sendall(answer)
        theirs.close()
        heard = hear(asked, {ME: Share(1000)}, 0.05, 60)
    assert heard == Heard([Roster(os.getpid(), ME, ())], 2, 0, set())


def test_no_time_to_read() -> None:
    """Nor is anybody read for longer than that."""
    heard = said(*[opening(1) + lines(ENTRY)] * 3, work=1e-9)
    assert heard.silent + len(heard.rosters) == 3
    assert heard.silent


def test_nobody() -> None:
    """Where there is nobody there is nothing to wait for."""
    assert said() == Heard([], 0, 0, set())
