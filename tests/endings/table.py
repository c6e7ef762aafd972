"""How a connection ends, by every door: the answers, and where a question has no meaning.

The one source of the tests here and of docs/endings.md (`scripts/endings_doc`).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a program sends: more than a peer that does not read has room for.
SIZE = 600_000
# How many times as much to a peer that goes: more than is kept on the way.
TIMES = {"leaves": 10, "resets": 10, "breaks": 40}


class Sees(Enum):
    """What a peer has seen once it has read to the end."""

    WHOLE = "all, end"
    DELIVERED = "all, cut"
    ARRIVED = "all, end or cut"
    CUT = "some, cut"
    TRUE = "some, no false end"
    ANY = "some, end"
    GONE = "gone"


# How a peer behaves; the first five go on reading, once the program is done.
PEERS = {
    "slow": "reads slowly: not before the program is done",
    "tickets": "the same, and has sent tickets that remain unread",
    "data": "the same, and has sent data that the program does not read, unless it waits",
    "half": "has ended its direction, close_notify and FIN, and reads slowly",
    "cut": "has ended its direction with FIN alone, and reads slowly",
    "leaves": "has sent close_notify and closed its socket",
    "resets": "has reset the connection",
    "breaks": "reads on, and resets the connection amid what the program sends",
    "never": "reads nothing until the program's patience has run out",
}
READING = ("slow", "tickets", "data", "half", "cut")
AWAY = ("leaves", "resets", "breaks")


class Answer(NamedTuple):
    """What is right.

    Attributes:
        sees: what the peer sees.
        told: what the program is told by what it calls: "nothing", "end", "cut", "reset".
    """

    sees: Sees
    told: str = "nothing"


@dataclass(frozen=True)
class Program:
    """What a program does with a connection, and how it ends itself.

    Attributes:
        text: for the page.
        status: its exit status.
        answers: by peer; what is not there has nothing of its own to show.
    """

    text: str
    status: int
    answers: dict[str, Answer]


_RESET = {peer: Answer(Sees.GONE, "reset") for peer in AWAY}
_ALL = dict.fromkeys(READING, Answer(Sees.WHOLE))
_LEFT = dict.fromkeys(READING, Answer(Sees.DELIVERED))
_GIVEN_UP = {"never": Answer(Sees.CUT)}
_NEVER = {"never": Answer(Sees.TRUE)}
_FEW = {peer: Answer(Sees.DELIVERED) for peer in ("tickets", "data")}

PROGRAMS = {
    "close": Program("sends and closes", 0, _ALL | _RESET | _NEVER),
    "wait": Program(
        "sends, shuts down, and reads to the peer's end",
        0,
        dict.fromkeys(("slow", "tickets", "data", "half"), Answer(Sees.WHOLE, "end"))
        | {"cut": Answer(Sees.WHOLE, "cut")}
        | _RESET,
    ),
    "return": Program("sends, and its main returns", 0, _LEFT | _GIVEN_UP),
    "exit": Program("sends, and raises SystemExit(3)", 3, _FEW),
    "raise": Program("sends, and raises an uncaught exception", 1, _FEW),
    "_exit": Program(
        "forks a child that connects, sends, closes, and ends by os._exit",
        0,
        _ALL | _NEVER,
    ),
    "kill": Program(
        "sends, and is killed by SIGKILL",
        -9,
        dict.fromkeys(("tickets", "data"), Answer(Sees.CUT)),
    ),
    "serve-in-child": Program(
        "forks and closes; the child sends, closes, and ends by os._exit", 0, _ALL | _NEVER
    ),
    "close-in-child": Program("forks a child that closes and ends; sends, and closes", 0, _ALL),
    "drop": Program("sends, drops the object, and lives on", 0, _LEFT | _GIVEN_UP),
    "abort": Program("sends, aborts, and lives on", 0, _LEFT | _GIVEN_UP),
}


@dataclass(frozen=True)
class Door:
    """A way to have a connection.

    Attributes:
        text: for the page.
        without: programs that it cannot have, and why.
        peers_without: peers that it cannot have, and why.
        differs: answers of its own, by program and peer, or by program alone, and why.
        carried: those of the relay alone, likewise, by program and peer.
        statuses: of programs whose end is not that of their process, and why.
        is_client: whether the program connects; its peer is a server then.
        relaxed: why a FIN alone is met with ClosePolicy.RELAXED, if it is.
    """

    text: str
    without: dict[str, str] = field(default_factory=dict)
    peers_without: dict[str, str] = field(default_factory=dict)
    differs: dict[tuple[str, str] | str, tuple[Answer, str]] = field(default_factory=dict)
    carried: dict[tuple[str, str], tuple[Answer, str]] = field(default_factory=dict)
    statuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    is_client: bool = True
    relaxed: str = ""


def _all(programs: tuple[str, ...], why: str) -> dict[str, str]:
    return dict.fromkeys(programs, why)


_FORKS = ("serve-in-child", "close-in-child")
_RELAXED = "`--close relaxed`; where such an end is a cut, both directions end"
_PLAIN = "a carried descriptor is a plain socket, for any worker: its end is the end of the data"
_UNREAD = "closing a plain socket with unread data resets it, which counts as a cut"
_DEFAULT = "`closing=ClosePolicy.RELAXED`, the default there; strict, it is an error that aborts"
_UNTOLD = {
    "breaks": "the kernel may tell no call of such a reset (R25), and the program knows of no TLS"
}
_NO_TICKETS = {"tickets": "a client sends no tickets"}
_ON_A_LOOP = _all(_FORKS, "a running loop does not survive a fork") | {
    "drop": "the loop keeps its connections",
}

DOORS = {
    "Handoff": Door(
        "the bare descriptor: `handoff.sock`, `service`, `shutdown`, `close`, `abort`",
        differs={
            ("drop", peer): (
                Answer(Sees.CUT),
                "Python closes it: with unread data, that is a reset",
            )
            for peer in ("tickets", "data", "half", "cut")
        },
    ),
    "TLSSocket": Door("`TLSSocket(connect(...))`"),
    "sslcontext": Door("`SSLContext.wrap_socket`"),
    "agent": Door("`agent.connect`: the handshake, and a relay, are the agent's"),
    "aio": Door(
        "`tlsify.aio.open_connection`, on asyncio's own loop", _ON_A_LOOP, relaxed=_DEFAULT
    ),
    "uvloop": Door("the same on uvloop", _ON_A_LOOP, relaxed=_DEFAULT),
    "EventLoop": Door(
        "`asyncio.open_connection(ssl=)` on `tlsify.aio.EventLoop`",
        _ON_A_LOOP,
        dict.fromkeys(
            ("half", "cut"),
            "asyncio's streams close both directions when the peer ends its own, if there is TLS",
        ),
    ),
    "keeper": Door(
        "`tlsify connect HOST:PORT -- PROG`; killed is its keeper",
        {
            "wait": "descriptors 6 and 7 are one connection, which PROG can only end as a whole",
            "return": "PROG closes by ending",
            **_all(("raise", "_exit"), "PROG is written in any language: it exits"),
            "drop": "PROG closes by closing both descriptors",
            "abort": "PROG cannot abort",
        },
        differs={
            "exit": (Answer(Sees.WHOLE), "PROG's exit status goes to its parent"),
        },
        relaxed=_RELAXED,
    ),
    "pump": Door(
        "`tlsify connect HOST:PORT`, on stdin and stdout; exit status 0, 99 or another",
        {
            "close": "it waits for the peer's end",
            **_all(
                ("return", "exit", "raise", "_exit", *_FORKS, "drop"), "stdin ends, or does not"
            ),
            "abort": "stdin cannot express an abort",
        },
        {"leaves": "the command ends when the server has"},
        {
            ("wait", "half"): (
                Answer(Sees.ANY, "end"),
                "the command ends when the server has, as at a terminal",
            ),
            ("wait", "cut"): (Answer(Sees.TRUE, "cut"), "the same; `--close strict`"),
            **{
                ("wait", peer): (Answer(Sees.GONE, "cut"), "exit status 99 for every kind of cut")
                for peer in ("resets", "breaks")
            },
        },
    ),
    "socketserver": Door(
        "`integrations.socketserver.TLSMixIn`: the handler is the program, and the server closes",
        {
            **_all(("exit", "_exit"), "a handler is no process"),
            "close-in-child": "the server forks, not the handler",
            "drop": "the server also has the connection",
            "abort": "the server closes the connection after the handler",
        },
        _NO_TICKETS,
        statuses={"raise": (0, "the server goes on")},
        is_client=False,
        relaxed="`suppress_ragged_eofs`, as with `ssl`",
    ),
    "forward": Door(
        "`tlsify forward HOST:PORT BACKEND`: the backend is the program; killed is `forward`",
        {
            **_all(
                ("return", "exit", "raise", "_exit", *_FORKS, "drop"),
                "any end of a backend ends or resets its plain TCP connection",
            ),
        },
        _NO_TICKETS | {"leaves": "only further bytes distinguish an absent client from a slow one"},
        {
            ("close", "data"): (
                Answer(Sees.TRUE),
                "a backend that closes with unread data resets its own connection",
            ),
            "abort": (Answer(Sees.CUT), "a backend that resets its connection loses its sent data"),
            ("close", "never"): (
                Answer(Sees.TRUE),
                "for forward that is a half-close: it waits for the client, up to --send-timeout",
            ),
        },
        is_client=False,
        relaxed=_RELAXED,
    ),
    "tunnel": Door(
        "`tlsify forward --connect LISTEN HOST:PORT`: the client is the program; killed is "
        "`forward`",
        {
            **_all(
                ("return", "exit", "raise", "_exit", *_FORKS, "drop"),
                "any end of a client ends or resets its plain TCP connection",
            ),
        },
        {"leaves": "only further bytes distinguish an absent server from a slow one"},
        {
            ("close", "data"): (
                Answer(Sees.TRUE),
                "a client that closes with unread data resets its own connection",
            ),
            "abort": (Answer(Sees.CUT), "a client that resets its connection loses its sent data"),
        },
        relaxed=_RELAXED,
    ),
    "receiver": Door(
        "`tlsify.receiver`, behind `tlsify forward --pass-fd` (on the kernel path `--aware`)",
        {"_exit": "the child would be the worker"},
        _NO_TICKETS,
        carried={
            **{
                (program, peer): (Answer(Sees.TRUE if peer == "never" else Sees.WHOLE), _PLAIN)
                for program in ("return", "drop", "abort")
                for peer in ("slow", "half", "cut", "never")
            },
            **{
                (program, "data"): (Answer(Sees.ARRIVED), _UNREAD) for program in ("close", *_FORKS)
            },
        },
        is_client=False,
        relaxed=_RELAXED,
    ),
    "wrap": Door(
        "`tlsify wrap -- PROG`, whose sockets know no TLS",
        {"_exit": "`serve-in-child` is the same"},
        _NO_TICKETS | _UNTOLD,
        {
            "return": (Answer(Sees.WHOLE), "exit status 0 is an orderly end of PROG"),
            "drop": (Answer(Sees.WHOLE), "Python closes a socket that is dropped"),
            **{
                (program, "never"): (Answer(Sees.TRUE), "the same")
                for program in ("return", "drop")
            },
            "abort": (Answer(Sees.CUT), "`SO_LINGER` of 0 seconds drops data, as without TLS"),
            ("wait", "cut"): (Answer(Sees.WHOLE, "reset"), "without TLS there is no other error"),
        },
        statuses={"kill": (128 + signal.SIGKILL, "the command ends as shells spell it")},
        is_client=False,
    ),
}


# What is played on the kernel path of each program, at one door; at the others each that ends
# another way, with the first of its peers.
_SAMPLED_DOOR = "TLSSocket"
_SAMPLED_PROGRAMS = {"close", "wait", "return", "serve-in-child", "abort"}
_SAMPLE = {
    **dict.fromkeys(PROGRAMS, ("tickets",)),
    "close": ("tickets", "data", "resets", "breaks", "never"),
    "wait": ("tickets", "half", "cut"),
    "return": ("tickets", "never"),
    "drop": ("data",),
    "abort": ("data",),
    "kill": ("data",),
}


class Cell(NamedTuple):
    """One question, and its answer."""

    door: str
    program: str
    peer: str
    answer: Answer

    @property
    def id(self) -> str:
        """Its name among the tests."""
        return f"{self.door}-{self.program}-{self.peer}"

    @property
    def is_sample(self) -> bool:
        """Whether it is played on the kernel path if not all of them are asked for."""
        peers = _SAMPLE[self.program]
        if self.door != _SAMPLED_DOOR:
            peers = peers[:1] if self.program in _SAMPLED_PROGRAMS else ()
        stands_in = "tickets" in DOORS[self.door].peers_without and self.peer == "slow"
        return ("tickets" if stands_in else self.peer) in peers


def answer(door: str, program: str, peer: str, carrier: str = "") -> Answer | str | None:
    """Return the right answer; or why there is none; or None where it would show nothing new."""
    there = DOORS[door]
    if program in there.without:
        return there.without[program]
    if peer in there.peers_without:
        return there.peers_without[peer]
    usual = PROGRAMS[program].answers.get(peer)
    if usual is None:
        return None
    found = there.differs.get((program, peer)) or there.differs.get(program)
    if carrier == "relay":
        found = there.carried.get((program, peer)) or found
    if found is not None:
        return found[0]
    return usual._replace(told="end") if there.relaxed and usual.told == "cut" else usual


def cells(carrier: str) -> Iterator[Cell]:
    """Return all that have an answer, which are the same on every carrier."""
    for door in DOORS:
        for program in PROGRAMS:
            for peer in PEERS:
                found = answer(door, program, peer, carrier)
                if isinstance(found, Answer):
                    yield Cell(door, program, peer, found)


def sample(carrier: str) -> set[str]:
    """Return what is played if not all is asked for; on the relay each meeting of two of the three.

    That is all of the first door, and at each other one every program and every peer.
    """
    met: set[tuple[str, str]] = set()
    chosen = set()
    for cell in cells(carrier):
        pairs = {(cell.door, cell.program), (cell.door, cell.peer), (cell.program, cell.peer)}
        if cell.is_sample or (carrier == "relay" and not pairs <= met):
            met |= pairs
            chosen.add(cell.id)
    return chosen
