"""The exit codes of the command, grouped by remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlsify.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator


class Group(NamedTuple):
    """Codes after which the same helps.

    Attributes:
        title: a noun phrase, with what to do.
        codes: each with its meaning.
    """

    title: str
    codes: dict[ExitCode, str]


GROUPS = (
    Group("Success", {ExitCode.OK: "success"}),
    Group(
        "The command line, or a file that it names: correct it",
        {
            ExitCode.USAGE: "usage: a word of the command line, or of a configuration file, is "
            "wrong or missing",
            ExitCode.CONFIG: "configuration: a file, key, certificate, trust anchor or "
            "descriptor that is named cannot be used",
            ExitCode.NOT_EXECUTABLE: "PROG cannot be run",
            ExitCode.NOT_FOUND: "PROG does not exist",
        },
    ),
    Group(
        "The connection: trying again may help",
        {
            ExitCode.CLOSED: "the connection was cut: no close_notify, reset, timed out, or out "
            "of reach",
            ExitCode.NETWORK: "network: no such host, no answer, or the address cannot be "
            "listened on",
            ExitCode.AGENT: "the agent has died, and the connection with it",
            ExitCode.DEADLINE: "connecting, or the handshake, took too long; or the connection "
            "was idle for --idle",
        },
    ),
    Group(
        "The peer: trying again does not help",
        {
            ExitCode.HANDSHAKE: "the handshake failed, or the peer ended the connection with an "
            "error",
            ExitCode.IDENTITY: "the peer is not one of the accepted identities, or its "
            "certificate is not trusted",
        },
    ),
    Group(
        "Kernel TLS: --ktls=off avoids it",
        {
            ExitCode.KTLS: "kernel TLS is required and not available",
            ExitCode.COMMIT: "the kernel took the keys of one direction only, or a key at its "
            "usage limit could not be changed",
        },
    ),
    Group(
        "This host",
        {
            ExitCode.SYSTEM: "another system call failed, or threads, descriptors or memory ran "
            "out",
            ExitCode.BUG: "a bug in tlsify; a traceback is shown",
        },
    ),
)
OF_OTHERS = (
    "Once PROG has been started its exit status is the command's. After signal N the status is "
    "128 + N, as in shells: 130 after SIGINT, 141 where the reader of stdout has ended."
)


def lines() -> Iterator[str]:
    """Return the table for a terminal."""
    for group in GROUPS:
        yield group.title
        for code, meaning in group.codes.items():
            yield f"  {code:>3}  {meaning}"
        yield ""
    yield OF_OTHERS


def table() -> str:
    """Return the table in Markdown."""
    rows = (
        f"**{group.title}**\n\n| code | meaning |\n|---|---|\n"
        + "".join(f"| {code} | {meaning} |\n" for code, meaning in group.codes.items())
        for group in GROUPS
    )
    return "\n" + "\n".join(rows) + "\n"
