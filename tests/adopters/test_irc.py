"""IRC over tlsify: two users of ii and a bot in shell meet on a server that has no TLS."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import recipe
from tests.doubles import until
from tests.interop.programs import PATIENCE, TIMEOUT, require
from tests.ports import free_port
from tests.provision import find
from tlsify.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

    from tests.adopters.recipes import Place

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_SERVER = """
[Global]
    Name = irc.example.org
    Info = tests
    MotdPhrase = welcome
    Listen = 127.0.0.1
    Ports = {0}
[Limits]
    MaxConnectionsIP = 0
    MaxJoins = 0
[Options]
    DNS = no
    Ident = no
    PAM = no
    IncludeDir = /nonexistent
"""


@pytest.fixture
def server(place: Place) -> Iterator[int]:
    """A server behind ``tlsify listen``; return the port for TLS."""
    for program in ("ngircd", "ii", "socat", "nc"):
        require(program)
    plain = free_port()
    place.write("ngircd.conf", _SERVER.format(plain))
    (place.folder / "ngircd.conf").chmod(0o644)
    own = {"0.0.0.0:6697": "127.0.0.1:0", "6667": plain}
    with place.start(f"exec {find('ngircd')} --nodaemon --config ngircd.conf") as daemon:
        daemon.await_port(plain)
        with place.serving(recipe("irc-serve", own)) as port:
            yield port


class User:
    """Somebody who talks on the channel: in each folder ii has a pipe "in" and a log "out"."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that ii keeps."""
        self._server = folder / "irc/localhost"
        self._channel = self._server / "#tlsify"

    def join(self) -> None:
        """Join the channel."""
        self._write(self._server, "/j #tlsify")
        until((self._channel / "out").exists, PATIENCE)

    def say(self, text: str) -> None:
        """Write something there."""
        self._write(self._channel, text)

    @staticmethod
    def _write(folder: Path, text: str) -> None:
        until((folder / "in").exists, PATIENCE)
        (folder / "in").write_text(f"{text}\n")

    def hears(self, *words: str) -> None:
        """Wait for a line with these words."""
        until(lambda: any(all(w in line for w in words) for line in self.lines()), PATIENCE)

    def lines(self) -> list[str]:
        """Return what has been said on the channel, and who came and went."""
        return (self._channel / "out").read_text("utf-8", "replace").splitlines()


@contextmanager
def _user(place: Place, port: int, name: str) -> Iterator[User]:
    own: dict[str, object] = {"irc.example.org": "localhost", "6697": port, "alice": name}
    # What the page leaves to the shell: its last command is what we can end.
    own |= {"ii -s": "exec ii -s"}
    client = recipe("irc-client", own)
    (place.folder / name).mkdir()
    with place.start(f"cd {name}\n{client}"):
        user = User(place.folder / name)
        user.join()
        yield user


def _bot(place: Place, port: int) -> str:
    place.write_script("irc-bot")
    return recipe("irc-bot-start", {"irc.example.org": "localhost", "6697": port})


@pytest.mark.full_run
def test_two_users_and_a_bot(place: Place, server: int) -> None:
    """What one says the others hear; the bot knows from its environment how it is connected."""
    with (
        place.carried(connections=3),
        _user(place, server, "alice") as alice,
        _user(place, server, "bob") as bob,
        place.start(f"exec {_bot(place, server)}"),
    ):
        alice.hears("tlsbot", "has joined")
        alice.say("hello, Bob")
        bob.hears("<alice> hello, Bob")
        bob.say("hello, Alice")
        alice.hears("<bob> hello, Alice")
        alice.say("!tls")
        for user in (alice, bob):
            user.hears("<tlsbot> TLSv1.3 TLS_")


@pytest.mark.full_run
def test_bot_and_another_server(place: Place, authority: trustme.CA) -> None:
    """The bot is not even started where the certificate names somebody else."""
    require("nc")
    place.certify(authority.issue_cert("elsewhere.example"))
    own = {"0.0.0.0:6697": "127.0.0.1:0"}
    refused = ".* alert bad_certificate.*"
    with place.serving(recipe("irc-serve", own), refused) as port:
        start = _bot(place, port)
        (place.folder / "irc-bot").write_text("#!/bin/sh\necho the bot runs\n")
        done = place.run(start)
    assert done.returncode == ExitCode.IDENTITY
    assert "the bot runs" not in done.stdout
