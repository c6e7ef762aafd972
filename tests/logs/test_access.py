"""Tests of access: each line is one line, whatever is in it, and can be read again."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import RELAY
from tlsify.errors import BackendError, PeerAlert, PeerMisbehaved, Truncated
from tlsify.logs import messages
from tlsify.logs.access import PASSED, AccessLog, Subject, ending, visiting
from tlsify.logs.file import LONGEST, LogFile
from tlsify.logs.messages import FORMATS, JSON, TEXT

if TYPE_CHECKING:
    from tests.doubles import Lab

FILTER = Path(__file__).parents[2] / "share/tlsify/fail2ban/filter.d/tlsify.conf"
CLIENT = ("192.0.2.7", 50_000)


class Lines(LogFile):
    """Keeps lines."""

    def __init__(self) -> None:
        self.found: list[bytes] = []

    def reopen(self) -> None:
        """Do nothing."""

    def append(self, line: bytes) -> None:
        """Keep it."""
        self.found.append(line)

    def take(self, form: str) -> dict[str, Any]:
        """Read the only line, as a program would; text has no values but texts."""
        (line,) = self.found
        self.found.clear()
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        text = line.decode()
        assert text[:-1].isprintable()
        if form == JSON:
            return dict(json.loads(text))
        moment, event, *words = shlex.split(text)
        pairs = (word.partition("=")[::2] for word in words)
        return {"time": moment, "event": event, **{n: v for n, v in pairs if v != "-"}}


each_form = pytest.mark.parametrize("form", FORMATS)


@each_form
def test_connection(lab: Lab, form: str) -> None:
    """All that there is to tell of a connection, and how it has ended."""
    lines = Lines()
    handed, _ = lab.server(RELAY)
    token = messages.peer.set(CLIENT)
    with handed, visiting(AccessLog(lines, form), handed) as visit:
        assert visit.traffic is not None
        visit.traffic.received = 5
        visit.more["backend"] = "unix:/run/a b"
    messages.peer.reset(token)
    told = lines.take(form)
    found = {name: told[name] for name in ("event", "client", "version", "carrier", "backend")}
    assert found == {
        "event": "connection",
        "client": "192.0.2.7",
        "version": "TLSv1.3",
        "carrier": "relay",
        "backend": "unix:/run/a b",
    }
    assert (str(told["port"]), str(told["received"]), str(told["sent"])) == ("50000", "5", "0")
    assert told["end"] == "clean"
    assert "error" not in told
    assert re.fullmatch(r"\d\.\d+", str(told["seconds"]))


@each_form
def test_failures(lab: Lab, form: str) -> None:
    """An error is told, and goes on; a connection that was passed on has no traffic to tell."""
    lines = Lines()
    handed, _ = lab.server(RELAY)
    with handed:
        with pytest.raises(Truncated), visiting(AccessLog(lines, form), handed):
            raise Truncated("cut \x1b[31m")
        told = lines.take(form)
        assert (told["end"], "client" in told) == ("cut", False)
        with visiting(AccessLog(lines, form), handed) as visit:
            visit.traffic, visit.end = None, PASSED
        told = lines.take(form)
        assert (told["end"], "sent" in told) == ("passed", False)
        with visiting(None, handed):
            pass
    assert not lines.found


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Truncated("x"), "cut"),
        (PeerAlert("x"), "peer_alert"),
        (PeerMisbehaved("x"), "peer_misbehaved"),
        (BackendError("x"), "backend"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "ECONNRESET"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "ETIMEDOUT"),
        (asyncio.CancelledError(), "stopped"),
        (ValueError("x"), "failed"),
    ],
)
def test_endings(error: BaseException, name: str) -> None:
    """Each has a short name."""
    assert ending(error) == name


@each_form
@given(text=st.text(), other=st.text(st.characters(min_codepoint=0x1000), max_size=5000))
def test_whatever_a_peer_sends(form: str, text: str, other: str) -> None:
    """It stays one line of characters to see, no longer than a pipe takes at once."""
    lines = Lines()
    log = AccessLog(lines, form)
    about = Subject.__new__(Subject)
    about.told = {"server_name": text, "certificate": other}
    log.request(about, {"request": text, "referer": other, "user_agent": other, "end": "clean"})
    assert len(lines.found[0]) <= LONGEST
    told = lines.take(form)
    if text and text.isprintable() and text != "-" and len(text) <= 24:
        assert told["request"] == text
        assert told["server_name"] == text
    assert told["end"] == "clean"


# -- fail2ban


def failregex() -> re.Pattern[str]:
    """Make of the filter's what fail2ban makes of it, for addresses."""
    text = FILTER.read_text()
    (found,) = re.findall(r"^failregex = (.+)$", text, re.MULTILINE)
    address = r"(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})|\[?(?P<ip6>[0-9a-fA-F:]*:[0-9a-fA-F:.]*)\]?"
    return re.compile(found.replace("<ADDR>", f"(?:{address})"))


@pytest.mark.parametrize("name", [CLIENT, ("2001:db8::1", 50_000, 0, 0)])
def test_fail2ban(name: tuple[Any, ...]) -> None:
    """The filter finds refused clients by their own address, whatever they have sent."""
    lines = Lines()
    log = AccessLog(lines, TEXT)
    log.refused(name, "peer_misbehaved", 'sent "refused client=192.0.2.9 port=1 x', 0.1)
    (line,) = lines.found
    lines.found.clear()
    # fail2ban cuts out what datepattern finds.
    said = re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "", line.decode().rstrip("\n"))
    found = failregex().search(said)
    assert found is not None
    assert name[0] in {found["ip4"], found["ip6"]}


@pytest.mark.parametrize("end", ["deadline", "truncated", "network", "abandoned", "resources"])
def test_fail2ban_spares(end: str) -> None:
    """Nobody is banned for what happens to honest clients."""
    lines = Lines()
    AccessLog(lines, TEXT).refused(CLIENT, end, "refused client=192.0.2.9", 0.1)
    assert failregex().search(lines.found[0].decode()[24:]) is None


def test_fail2ban_and_requests() -> None:
    """A request that looks like a refusal is none."""
    lines = Lines()
    log = AccessLog(lines, TEXT)
    forged = (
        "GET /\n2026-11-30T05:00:00.000Z refused client=192.0.2.9 port=1 seconds=0.1 end=identity"
    )
    log._write("request", None, {"client": "192.0.2.7", "port": 1, "request": forged})
    assert lines.found[0].count(b"\n") == 1
    assert failregex().search(lines.found[0].decode()[24:]) is None
